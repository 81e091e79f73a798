"""Wherever a model is split, numbers agree with the reference and answers stay the same."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load_file

from runtime.backends.mnn import MnnBackend
from runtime.bundle import Bundle, open_bundle, select_variant
from runtime.bundle_spec import spec_of_bundle
from runtime.embedding import EmbeddingFile
from runtime.engine import Engine, Generation
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.launch import launches_of
from runtime.sampling import Sampling
from runtime.stage import Stage, Step
from runtime.step_inputs import Row
from scheduler.plan import Plan
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.reference import chatglm_numpy
from tests.support.chatglm_checkpoint import Shape, config_for, write_checkpoint
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT

# MNN's fused GELU is an approximation: about 6e-6 relative for a block, adding up along the way.
TOLERANCE = 1e-4
SHAPE = Shape(hidden=64, heads=4, blocks=3, vocab=96, max_context=256)
WORKING = frozenset({"mnn:cpu"})


@pytest.fixture(scope="module")
def random_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, chatglm_numpy.Model]:
    directory = tmp_path_factory.mktemp("random")
    tensors = write_checkpoint(directory / "checkpoint", SHAPE, precision="fp32")
    request = ExportRequest(directory / "checkpoint", directory / "bundle", ("fp32",))
    export_bundle(request)
    return open_bundle(directory / "bundle"), chatglm_numpy.Model(tensors, config_for(SHAPE))


@pytest.fixture(scope="module")
def tiny_model() -> tuple[Bundle, chatglm_numpy.Model]:
    tensors = load_file(TINY_CHECKPOINT / "model.safetensors")
    config = json.loads((TINY_CHECKPOINT / "config.json").read_text())
    return open_bundle(TINY_BUNDLE), chatglm_numpy.Model(tensors, config)


@pytest.fixture(params=["random_model", "tiny_model"])
def model_pair(request: pytest.FixtureRequest) -> tuple[Bundle, chatglm_numpy.Model]:
    pair: tuple[Bundle, chatglm_numpy.Model] = request.getfixturevalue(request.param)
    return pair


def plan_for(bundle: Bundle, gpu_blocks: int) -> Plan:
    request = PlanRequest(
        spec_of_bundle(bundle),
        vram_bytes=(1 << 33,),
        gpu_blocks=gpu_blocks,
        gpu_precision="fp32",  # an fp16 file serves it without loss where the checkpoint is fp16
        cpu_precision="fp32",
        context=SHAPE.max_context,
    )
    return make_plan(request)


def generated(bundle: Bundle, gpu_blocks: int, prompt: list[int], sampling: Sampling) -> list[int]:
    """Tokens through real worker processes, one per stage."""
    launches = launches_of(plan_for(bundle, gpu_blocks), bundle, WORKING, {}, 1)
    with Engine(bundle, launches, SHAPE.max_context) as engine:
        return list(engine.generate(prompt, sampling, 80, Generation()))


def stages(bundle: Bundle) -> Iterator[Stage]:
    """Every block as a stage of its own, in this process."""
    geometry = bundle.manifest.geometry
    for number in range(geometry.blocks):
        backend = MnnBackend("cpu", 1, geometry.kv_heads, geometry.head_dim)
        variant = select_variant(bundle.manifest, f"block_{number}", "mnn", "fp32").variant
        backend.load_block(bundle.file(variant.files[0]))
        yield Stage(backend, geometry.turning, geometry.max_context)


def test_hidden_states_after_every_block_agree_with_the_reference(
    model_pair: tuple[Bundle, chatglm_numpy.Model],
) -> None:
    bundle, model = model_pair
    geometry = bundle.manifest.geometry
    tokens = bundle.manifest.tokens
    prompt = [20, 31, 42, 53, 64, 75, tokens.gmask, tokens.bos]
    generated = [11, 22, 33, 44, 55]
    expected = chatglm_numpy.forward(model, prompt + generated).hidden
    embedding = EmbeddingFile(
        bundle.file(bundle.manifest.embedding.file), geometry.vocab_size, geometry.hidden_size
    )
    # The embedding file is rounded to bfloat16, so the reference starts from the same rows.
    hidden = model["transformer.word_embeddings.weight"][prompt + generated].astype(np.float32)
    assert relative_error(embedding.lookup(prompt + generated), hidden) < 1 / 256
    start = len(prompt)
    prefill, steps = hidden[None, :start], [hidden[None, [start + i]] for i in range(5)]
    context_end, mask_position = start - 1, start - 2
    for number, stage in enumerate(stages(bundle)):
        row = Row(0, context_end, mask_position)
        prefill = stage.forward(Step((row,), start), prefill)
        assert relative_error(prefill[0], expected[number + 1][:start]) < TOLERANCE
        for done, step in enumerate(steps):
            row = Row(start + done, context_end, mask_position)
            steps[done] = stage.forward(Step((row,), 1), step)
            assert relative_error(steps[done][0, 0], expected[number + 1][start + done]) < TOLERANCE


def test_tokens_do_not_depend_on_the_split(
    model_pair: tuple[Bundle, chatglm_numpy.Model],
) -> None:
    bundle, _ = model_pair
    tokens = bundle.manifest.tokens
    # Four tokens below 64, where the cache grows.
    prompt = [*range(20, 78), tokens.gmask, tokens.bos]
    wild = Sampling(temperature=3.0, top_k=40, seed=2)
    blocks = bundle.manifest.geometry.blocks
    for sampling in (Sampling(), wild):
        whole = generated(bundle, 0, prompt, sampling)
        for gpu_blocks in range(1, blocks + 1):
            assert generated(bundle, gpu_blocks, prompt, sampling) == whole
    assert len(prompt) + len(whole) > 64


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
