"""ModelSpec: parameters against published totals and tensor lists, bytes against hand counts."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import UserInputError
from scheduler.hf_config import spec_from_hf_config
from scheduler.model import (
    ModelSpec,
    block_bytes,
    block_flops_per_token,
    block_kv_bytes_per_token,
    block_matrices,
    block_parameters,
    default_weight_block,
    embedding_bytes,
    embedding_parameters,
    flops_per_token,
    kv_bytes_per_token,
    lm_head_bytes,
    lm_head_flops,
    lm_head_parameters,
    total_parameters,
)
from scheduler.profiles import load_model
from tests.scheduler.published_models import MODELS, Published
from tests.scheduler.tensor_shapes import block_shapes, outer_shapes

MIB = 1024**2


@pytest.fixture
def chatglm() -> ModelSpec:
    return load_model("chatglm-6b")


@pytest.mark.parametrize(("name", "published"), MODELS.items())
def test_total_is_the_published_one(name: str, published: Published) -> None:
    assert total_parameters(spec_from_hf_config(published.config, name)) == published.parameters


@pytest.mark.parametrize(("name", "published"), MODELS.items())
def test_every_part_is_the_sum_of_its_tensors(name: str, published: Published) -> None:
    spec = spec_from_hf_config(published.config, name)
    block = sum(math.prod(shape) for shape in block_shapes(published.config).values())
    outer = outer_shapes(published.config)
    assert block_parameters(spec) == block
    assert embedding_parameters(spec) == math.prod(outer["embedding.weight"])
    head = math.prod(outer.get("lm_head.weight", outer["embedding.weight"]))
    vectors = sum(math.prod(shape) for shape in outer.values() if len(shape) == 1)
    assert lm_head_parameters(spec) == head + vectors
    # the test's own list must be right too
    assert (
        block * spec.blocks + sum(math.prod(shape) for shape in outer.values())
        == published.parameters
    )


def test_chatglm_block_by_hand(chatglm: ModelSpec) -> None:
    matrices = 12 * 4096 * 4096
    vectors = (12288 + 4096 + 16384 + 4096) + 4 * 4096
    assert block_parameters(chatglm) == matrices + vectors == 201_379_840
    assert block_bytes(chatglm, "fp32") == 4 * 201_379_840
    assert block_bytes(chatglm, "fp16") == 2 * matrices + 4 * vectors
    assert block_bytes(chatglm, "bf16") == block_bytes(chatglm, "fp16")
    rows = 12288 + 4096 + 16384 + 4096
    assert block_bytes(chatglm, "int8") == matrices + 4 * rows + 4 * vectors
    assert block_bytes(chatglm, "int4") == matrices // 2 + 4 * matrices // 128 + 4 * vectors


@pytest.mark.parametrize(
    ("precision", "file_bytes"),
    [("fp32", 806.6e6), ("fp16", 403.4e6), ("int8", 202.8e6), ("int4", 108.3e6)],
)
def test_chatglm_block_is_as_large_as_its_mnn_file(
    chatglm: ModelSpec, precision: str, file_bytes: float
) -> None:
    # files that MNN 3.6.1 wrote for a full block; the graph around the weights takes about 1 MB
    graph = file_bytes - block_bytes(chatglm, precision)  # type: ignore[arg-type]
    assert 0.3e6 < graph < 1.5e6


def test_reserve_rule_of_chatglm_covers_its_blocks(chatglm: ModelSpec) -> None:
    rule = chatglm.reserve_rule
    assert rule is not None
    assert rule.reserve_bytes == 2 * 1024 * MIB
    assert rule.block_bytes == {
        "fp32": 769 * MIB,
        "fp16": 385 * MIB,
        "int8": 194 * MIB,
        "int4": 104 * MIB,
    }
    for precision, counted in rule.block_bytes.items():
        assert 0 <= counted - block_bytes(chatglm, precision) < 2 * MIB  # type: ignore[arg-type]
    assert "wangzhaode/ChatGLM-MNN" in rule.source
    assert pickle.loads(pickle.dumps(chatglm)) == chatglm
    assert {chatglm: 1}[load_model("ChatGLM-6B")] == 1


def test_weight_block_counts_scales(chatglm: ModelSpec) -> None:
    assert default_weight_block(chatglm) == 128
    matrices = 12 * 4096 * 4096
    finer = block_bytes(chatglm, "int4", weight_block=32) - block_bytes(chatglm, "int4")
    assert finer == 4 * (matrices // 32 - matrices // 128)
    blocked = block_bytes(chatglm, "int8", weight_block=128)
    assert blocked == matrices + 4 * matrices // 128 + 4 * (36864 + 16384)


def test_default_weight_block_divides_every_width() -> None:
    assert default_weight_block(load_model("smollm2-135m")) == 64  # hidden 576 = 9 x 64
    odd = replace(load_model("smollm2-135m"), ffn_size=1537)
    assert default_weight_block(odd) is None
    rows = sum(matrix.rows for matrix in block_matrices(odd))
    weights = sum(matrix.rows * matrix.inner for matrix in block_matrices(odd))
    assert block_bytes(odd, "int4") == pytest.approx(weights / 2 + 4 * rows + 4 * 2 * 576, abs=4)


@pytest.mark.parametrize("size", [0, -32, 48, 100, 8192])
def test_weight_block_must_divide(chatglm: ModelSpec, size: int) -> None:
    with pytest.raises(UserInputError, match=f"{size} does not divide .* width 4096"):
        block_bytes(chatglm, "int4", weight_block=size)


def test_lm_head_and_embedding_bytes(chatglm: ModelSpec) -> None:
    cells = 130528 * 4096
    assert embedding_bytes(chatglm) == 2 * cells
    assert lm_head_bytes(chatglm, "fp32") == 4 * cells + 4 * 8192
    assert lm_head_bytes(chatglm, "int8") == cells + 4 * 130528 + 4 * 8192
    assert lm_head_bytes(chatglm, "int4") == cells // 2 + 4 * cells // 128 + 4 * 8192


def test_kv_cache_per_token(chatglm: ModelSpec) -> None:
    assert block_kv_bytes_per_token(chatglm) == 2 * 4096 * 4
    assert kv_bytes_per_token(chatglm, bytes_per_value=2) == 28 * 2 * 4096 * 2
    assert kv_bytes_per_token(load_model("chatglm2-6b"), 2) == 28 * 2 * 256 * 2


def test_flops_per_token_by_hand(chatglm: ModelSpec) -> None:
    matrices = 12 * 4096 * 4096
    assert block_flops_per_token(chatglm, 0) == 2 * matrices
    # scores: 2 x dim x heads x context; weighted values: the same
    assert block_flops_per_token(chatglm, 100) - 2 * matrices == 2 * (2 * 128 * 32 * 100)
    assert lm_head_flops(chatglm) == 2 * 130528 * 4096
    assert flops_per_token(chatglm, 100) == 28 * block_flops_per_token(
        chatglm, 100
    ) + lm_head_flops(chatglm)


@given(
    heads=st.integers(1, 64),
    dim=st.integers(1, 256),
    ffn=st.integers(1, 4096),
    blocks=st.integers(1, 64),
    gated=st.booleans(),
    bias=st.booleans(),
)
def test_lower_precision_is_never_larger(
    heads: int, dim: int, ffn: int, blocks: int, gated: bool, bias: bool
) -> None:
    spec = replace(
        load_model("chatglm-6b"),
        hidden_size=heads * dim,
        heads=heads,
        kv_heads=heads,
        head_dim=dim,
        ffn_size=ffn,
        blocks=blocks,
        gated_mlp=gated,
        mlp_bias=bias,
    )
    fp32, fp16 = block_bytes(spec, "fp32"), block_bytes(spec, "fp16")
    assert fp32 == 4 * block_parameters(spec)
    assert fp16 < fp32
    # a scale takes 4 bytes a row, so a matrix only a few values wide gains nothing
    if min(heads * dim, ffn) >= 32:
        assert block_bytes(spec, "int4") < block_bytes(spec, "int8") < fp16
