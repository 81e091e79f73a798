"""Causal prompts in chunks, and prompts that begin like earlier ones: the answers stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.backends.mnn import MnnBackend
from runtime.bundle import Bundle, open_bundle, select_variant
from runtime.embedding import EmbeddingFile
from runtime.engine import Engine
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.sampling import Sampling
from runtime.stage import Stage, finished
from runtime.step_inputs import Row
from scheduler.slots import PREFILL_CHUNK, kv_capacity
from tests.support.engines import start_engine
from tests.support.llama_checkpoint import LLAMA, write_checkpoint

CONTEXT = 512
NEW_TOKENS = 20


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("llama")
    config = LLAMA | {"max_position_embeddings": CONTEXT, "num_hidden_layers": 3}
    write_checkpoint(folder / "checkpoint", config, precision="fp32")
    export_bundle(ExportRequest(folder / "checkpoint", folder / "bundle", ("fp32",)))
    return open_bundle(folder / "bundle")


def text(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 96, length).tolist()


def engine_for(bundle: Bundle, slots: int, first_blocks: int = 0) -> Engine:
    return start_engine(bundle, slots=slots, first_blocks=first_blocks, context=CONTEXT)


def answer(engine: Engine, prompt: list[int]) -> list[int]:
    return list(engine.submit(prompt, Sampling(), NEW_TOKENS, ignore_end=True))


@pytest.mark.parametrize("chunk", [1, 7, PREFILL_CHUNK])
def test_a_chunk_sees_what_came_before(llama: Bundle, chunk: int) -> None:
    geometry, embedding = llama.manifest.geometry, llama.manifest.embedding
    ids = text(2 * PREFILL_CHUNK + 30)
    table = EmbeddingFile(
        llama.file(embedding.file), geometry.vocab_size, geometry.hidden_size, embedding.dtype
    )
    hidden = table.lookup(ids)
    backend = MnnBackend("cpu", 1, geometry.kv_heads, geometry.head_dim)
    for number in range(geometry.blocks):
        variant = select_variant(llama.manifest, f"block_{number}", "mnn", "fp32").variant
        backend.load_block(llama.file(variant.files[0]))
    stage = Stage(backend, geometry.turning, CONTEXT)
    capacity = kv_capacity(len(ids))
    stage.arrange(0, 2, capacity, (-1, -1))
    whole = finished(stage.prefill(0, 0, Row(0), hidden)).copy()
    parts = [
        finished(stage.prefill(0, 1, Row(start), hidden[start : start + chunk])).copy()
        for start in range(0, len(ids), chunk)
    ]
    difference = np.concatenate(parts) - whole
    assert np.linalg.norm(difference) / np.linalg.norm(whole) < 1e-6


def test_long_prompts_and_short_ones_change_no_answer_of_each_other(llama: Bundle) -> None:
    prompts = [text(length, seed) for seed, length in enumerate((3, 300, 40, 128, 129, 257))]
    with engine_for(llama, 1) as single:
        expected = []
        for prompt in prompts:
            single.forget()
            expected.append(answer(single, prompt))
    for slots, first in ((2, 0), (4, 1)):
        with engine_for(llama, slots, first) as engine:
            for order in (prompts, prompts[::-1]):
                streams = {
                    len(prompt): engine.submit(prompt, Sampling(), NEW_TOKENS, ignore_end=True)
                    for prompt in order
                }
                found = [list(streams[len(prompt)]) for prompt in prompts]
                assert found == expected


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_conversation_goes_on_from_what_is_in_the_cache(llama: Bundle, slots: int) -> None:
    with engine_for(llama, slots) as engine, engine_for(llama, slots) as fresh:
        prompt = text(60)
        for turn in range(4):
            stream = engine.submit(prompt, Sampling(), NEW_TOKENS, ignore_end=True)
            other = engine.submit(text(20, 50 + turn), Sampling(), 3) if turn % 2 else None
            got = list(stream)
            if other is not None:
                list(other)
            fresh.forget()
            whole = fresh.submit(prompt, Sampling(), NEW_TOKENS, ignore_end=True)
            assert got == list(whole)
            prompt = [*prompt, *got, *text(15, turn)]


def test_reuse_is_counted_and_forgotten(llama: Bundle) -> None:
    prompt = text(80)
    with engine_for(llama, 1) as engine:
        first = engine.submit(prompt, Sampling(), NEW_TOKENS, ignore_end=True)
        longer = [*prompt, *first, 7, 8, 9]
        assert first.generation.reused_tokens == 0
        second = engine.submit(longer, Sampling(), NEW_TOKENS, ignore_end=True)
        got = list(second)
        # The last token of an answer is chosen, but never read.
        assert second.generation.reused_tokens == len(prompt) + NEW_TOKENS - 1
        again = engine.submit(longer, Sampling(), NEW_TOKENS, ignore_end=True)
        assert list(again) == got
        assert again.generation.reused_tokens == len(longer) - 1
        engine.forget()
        anew = engine.submit(longer, Sampling(), NEW_TOKENS, ignore_end=True)
        assert list(anew) == got
        assert anew.generation.reused_tokens == 0
