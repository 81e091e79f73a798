"""Bytes on devices: against sums done by hand for ChatGLM-6B, and properties for any geometry."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.matrix_scratch import most_product_bytes, product_bytes
from scheduler.memory import (
    MODULE_BYTES,
    DeviceKind,
    held_block_bytes,
    held_lm_head_bytes,
    hop_bytes,
    kv_cache_bytes,
    kv_growth_bytes,
    loading_bytes,
    running_bytes,
    stage_memory,
    stage_peaks,
)
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.prefill_memory import block_output_bytes, fp32_prefill_bytes, prefill_bytes
from scheduler.profiles import load_model
from scheduler.slots import kv_capacity
from scheduler.units import MIB

CHATGLM = load_model("chatglm-6b")
kinds = st.sampled_from(["cpu", "ort", "cuda"])
precisions = st.sampled_from(["fp32", "fp16", "int8", "int4"])

# ChatGLM-6B by hand: 12 x 4096^2 weights; biases and norms are 53,248 values in fp32.
WEIGHTS = 12 * 4096**2
VECTOR_BYTES = 4 * 53_248
LARGEST_MATRIX = 4096 * 16384
ROWS = 12288 + 4096 + 16384 + 4096


@st.composite
def geometries(draw: st.DrawFn) -> ModelSpec:
    kv_heads = draw(st.integers(1, 8))
    heads = kv_heads * draw(st.integers(1, 8))
    head_dim = 4 * draw(st.integers(1, 64))
    return ModelSpec(
        name="any",
        family=draw(st.sampled_from(["chatglm", "llama"])),
        hidden_size=heads * head_dim,
        ffn_size=draw(st.integers(1, 1 << 15)),
        blocks=draw(st.integers(1, 128)),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=draw(st.integers(1, 1 << 18)),
        max_context=draw(st.integers(1, 1 << 17)),
        norm=draw(st.sampled_from(["layer", "rms"])),
        gated_mlp=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        attention_output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        norms_per_block=draw(st.integers(1, 4)),
        tied_embeddings=draw(st.booleans()),
    )


@pytest.mark.parametrize(
    ("precision", "kind", "held_bytes"),
    [
        ("fp32", "cpu", 4 * WEIGHTS + VECTOR_BYTES),
        ("fp16", "cpu", 4 * WEIGHTS + VECTOR_BYTES),  # expanded
        ("int8", "cpu", WEIGHTS + 8 * ROWS + VECTOR_BYTES),
        ("int4", "cpu", WEIGHTS // 2 + 8 * WEIGHTS // 128 + VECTOR_BYTES),
        ("fp32", "cuda", 4 * WEIGHTS + VECTOR_BYTES),
        ("fp16", "cuda", 2 * WEIGHTS + VECTOR_BYTES),
        ("int8", "cuda", WEIGHTS + 8 * ROWS + VECTOR_BYTES + 2 * LARGEST_MATRIX),
        ("int4", "cuda", WEIGHTS // 2 + WEIGHTS // 16 + VECTOR_BYTES + 2 * LARGEST_MATRIX),
    ],
)
def test_a_chatglm_block(precision: Precision, kind: DeviceKind, held_bytes: int) -> None:
    assert held_block_bytes(CHATGLM, precision, kind) == held_bytes


def test_published_block_sizes() -> None:
    assert -(-held_block_bytes(CHATGLM, "fp16", "cuda") // MIB) == 385
    assert -(-held_block_bytes(CHATGLM, "fp32", "cuda") // MIB) == 769


def test_lm_head() -> None:
    head = 130528 * 4096
    norm = 2 * 4096 * 4
    assert held_lm_head_bytes(CHATGLM, "fp32", "cpu") == 4 * head + norm
    assert held_lm_head_bytes(CHATGLM, "int8", "cpu") == head + 8 * 130528 + norm


@pytest.mark.parametrize(
    ("context", "capacity"),
    [(1, 64), (64, 64), (65, 128), (257, 512), (1000, 1024), (1025, 1280), (2048, 2048)],
)
def test_the_cache_grows_in_steps(context: int, capacity: int) -> None:
    assert kv_capacity(context) == capacity


def test_kv_cache_by_hand() -> None:
    a_block = 2048 * 2 * 4096 * 2  # tokens, keys and values, width, fp16
    assert kv_cache_bytes(CHATGLM, 23, 2048, 1, 2) == 23 * a_block
    assert kv_cache_bytes(CHATGLM, 23, 1793, 3, 2) == 4 * 23 * a_block  # pairs of rows
    assert kv_cache_bytes(CHATGLM, 23, 64, 1, 2) == 23 * a_block // 32
    assert kv_cache_bytes(CHATGLM, 0, 2048, 1, 2) == 0


def test_what_a_growing_cache_takes_by_hand() -> None:
    a_token = 2 * 4096 * 2
    old, new_keys = 1792 * a_token, 2048 * a_token // 2
    assert kv_growth_bytes(CHATGLM, 2048, 1, 2) == old + new_keys
    assert kv_growth_bytes(CHATGLM, 2048, 3, 2) == 4 * (old + new_keys)
    assert kv_growth_bytes(CHATGLM, 2048, 8, 2) == 4 * (old + new_keys)  # of one group
    assert kv_growth_bytes(CHATGLM, 256, 1, 2) == (128 + 128) * a_token
    # The smallest cache grows by rows only, from two to four.
    assert kv_growth_bytes(CHATGLM, 64, 4, 2) == (2 * 64 + 4 * 32) * a_token


def test_a_cache_grows_beside_what_the_last_prompt_left() -> None:
    one, four = (
        running_bytes(CHATGLM, "cpu", 5, "int8", 2048, slots, 2) - prefill_bytes(CHATGLM, 2048, 4)
        for slots in (1, 4)
    )
    a_block = 2048 * 3 * 4096 * 4  # hidden states, key and value
    assert one == 5 * a_block
    assert four == max(5 * a_block, a_block + kv_growth_bytes(CHATGLM, 2048, 4, 4))
    # With few blocks, the growth after a prompt of 1,792 tokens is more than a full prompt.
    left = prefill_bytes(CHATGLM, 1792, 4) + block_output_bytes(CHATGLM, 1, 1792, 4)
    grown = left + kv_growth_bytes(CHATGLM, 2048, 1, 4)
    full = prefill_bytes(CHATGLM, 2048, 4) + a_block
    assert running_bytes(CHATGLM, "cpu", 1, "int8", 2048, 1, 2) == max(full, grown)
    causal = replace(CHATGLM, family="llama")
    beside = running_bytes(causal, "cpu", 5, "int8", 2048, 1, 2) - prefill_bytes(causal, 2048, 4)
    grown_from = kv_growth_bytes(causal, 2048, 1, 4)
    assert beside == block_output_bytes(causal, 5, 2048, 4) + grown_from


def test_what_blocks_return_by_hand() -> None:
    per_token = (4096 + 2 * 4096) * 2  # hidden states, key and value, fp16
    assert block_output_bytes(CHATGLM, 23, 2048, 2) == 23 * 2048 * per_token


def test_prefill_by_hand() -> None:
    """Short prompts are bound by the rotation, long ones by the scores, fp32 by its products."""
    inputs = 2 * 4096 + 2 * 164  # hidden states and mask, twice
    assert prefill_bytes(CHATGLM, 100, 4) == 100 * (11 * 4096 + 128 + inputs) * 4
    inputs = 2 * 4096 + 2 * 2112
    attention = 64 * 2112 + 15 * 2048 + 32 * 64 + 128
    assert prefill_bytes(CHATGLM, 2048, 4) == 2048 * (attention + inputs) * 4
    down = product_bytes(2048, 16384, 4096, 2) + 2048 * 6 * 4096 * 4
    assert fp32_prefill_bytes(CHATGLM, 2048, 2) == down + 2048 * inputs * 4


def test_a_causal_prompt_is_computed_in_chunks() -> None:
    """128 tokens at once, before them a cache with room for 2,048; one row of it is copied."""
    causal = replace(CHATGLM, family="llama", gated_mlp=True, kv_heads=2)
    inputs = 2 * (4096 + 2176)
    attention = 2 * 32 * 2176 + 2 * 4096
    assert attention > 5 * 16384
    assert prefill_bytes(causal, 2048, 4) == 128 * (attention + inputs) * 4
    assert prefill_bytes(causal, 128, 4) == 128 * (3 * 16384 + 2 * 4096 + 2 * (4096 + 192)) * 4
    per_token = 2 * 256 * 2  # keys and values of two heads, fp16
    assert block_output_bytes(causal, 23, 2048, 2) == 23 * 128 * (per_token + 4096 * 2)
    assert kv_cache_bytes(causal, 23, 2048, 1, 2) == (23 + 1) * 2048 * per_token
    assert kv_cache_bytes(causal, 23, 128, 1, 2) == 23 * 128 * per_token
    assert kv_cache_bytes(causal, 23, 2048, 4, 2) == (4 * 23 + 1) * 2048 * per_token


@pytest.mark.parametrize(
    ("rows", "inner", "tokens", "threads", "allocated_mib"),
    [
        # What MNN 3.6.1 allocated for a block's prompt, less the tensors around its largest
        # product: every malloc was traced. In the order of causes: the matrix divided by tokens,
        # by rows, between more threads than tiles, and without Strassen's method.
        (4096, 16384, 1016, 1, 612.83),
        (4096, 16384, 504, 4, 361.34),
        (4096, 16384, 1016, 12, 1098.84),
        (4096, 16384, 1016, 7, 721.66),
        (16384, 4096, 1144, 2, 516.53),
        (16384, 4096, 1000, 3, 514.54),
        (4096, 16384, 321, 5, 134.12),
    ],
)
def test_scratch_of_products_is_what_mnn_allocates(
    rows: int, inner: int, tokens: int, threads: int, allocated_mib: float
) -> None:
    assert product_bytes(tokens, inner, rows, threads) / MIB == pytest.approx(
        allocated_mib, abs=0.02
    )


def test_one_row_of_logits_needs_no_strassen() -> None:
    tiles = 4096 * 24 * 4
    assert product_bytes(1, 4096, 130528, 1) == tiles


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 64), st.integers(1, 32))
def test_a_longer_context_never_needs_less(
    context: int, inner: int, rows: int, threads: int
) -> None:
    sizes = (256 * inner, 256 * rows, 8192, threads)
    assert most_product_bytes(context + 1, *sizes) >= most_product_bytes(context, *sizes)


def test_a_stage_that_only_loads() -> None:
    """A stage that only holds lm_head peaks while loading; one that runs prompts, later."""
    head = 130528 * 4096
    assert loading_bytes(CHATGLM, "cpu", 0, "fp32", "fp32") == 4 * head
    assert loading_bytes(CHATGLM, "cpu", 0, "int8", "int8") == 2 * head
    assert loading_bytes(CHATGLM, "cpu", 5, "int4", None) == LARGEST_MATRIX
    assert loading_bytes(CHATGLM, "cpu", 0, "fp32", None) == 0
    alone = stage_memory(CHATGLM, "cpu", 0, "fp32", "fp32", 2048, 1)
    assert alone.workspace_bytes == 4 * head
    short = stage_memory(CHATGLM, "cpu", 5, "fp32", "fp32", 64, 1)
    assert short.workspace_bytes == 4 * head - short.kv_cache_bytes


def test_every_loaded_block_costs_a_little_beside_its_weights() -> None:
    weights = stage_memory(CHATGLM, "cpu", 5, "int4", None, 64, 1).weights_bytes
    assert weights == 5 * (held_block_bytes(CHATGLM, "int4", "cpu") + MODULE_BYTES)


def test_hidden_states_between_stages() -> None:
    assert hop_bytes(CHATGLM, 2, 2048, 1) == 4 * (3 * 2049 * 4096 + 2 * 130528)
    assert hop_bytes(CHATGLM, 2, 2048, 3) == 4 * (3 * 2052 * 4096 + 5 * 130528)  # one prompt


@given(
    geometries(),
    kinds,
    precisions,
    st.none() | precisions,
    st.integers(0, 200),
    st.integers(1, 1 << 17),
    st.integers(1, 64),
)
def test_no_item_is_negative_and_more_never_takes_less(
    spec: ModelSpec,
    kind: DeviceKind,
    precision: Precision,
    lm_head_precision: Precision | None,
    blocks: int,
    context: int,
    slots: int,
) -> None:
    def total_bytes(more_blocks: int, more_context: int, more_slots: int) -> int:
        contents = (
            spec,
            kind,
            blocks + more_blocks,
            precision,
            lm_head_precision,
            context + more_context,
            slots + more_slots,
        )
        memory = stage_memory(*contents)
        items = memory.model_dump(exclude={"provenance", "total_bytes"}).values()
        assert min(items) >= 0
        assert memory.total_bytes == sum(items)
        assert memory.total_bytes == max(stage_peaks(*contents))
        return memory.total_bytes

    base_bytes = total_bytes(0, 0, 0)
    assert total_bytes(1, 0, 0) > base_bytes
    assert total_bytes(0, 1, 0) >= base_bytes
    assert total_bytes(0, 0, 1) >= base_bytes


@given(geometries(), kinds)
def test_fewer_bits_never_take_more(spec: ModelSpec, kind: DeviceKind) -> None:
    fp32, fp16 = (held_block_bytes(spec, name, kind) for name in ("fp32", "fp16"))
    assert fp16 <= fp32
