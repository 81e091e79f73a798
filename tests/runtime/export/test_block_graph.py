"""One block, converted by the real converter and run by the real MNN, against plain NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle import open_bundle, select_variant
from runtime.export.block_graph import (
    BLOCK_INPUTS,
    BLOCK_OUTPUTS,
    LM_HEAD_INPUTS,
    LM_HEAD_OUTPUTS,
    half_factors,
    key_order,
)
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.reference import chatglm_numpy as reference
from tests.support.chatglm_checkpoint import Shape, write_checkpoint
from tests.support.mnn_part import MnnPart

# A head of 32: its scale 1/sqrt(32) is no power of two, as that of ChatGLM-6B's 128 is not.
SHAPE = Shape(hidden=64, heads=2, blocks=2, vocab=96)
# Relative error of the norm, by precision of the checkpoint and of the file.
TOLERANCE = {
    ("fp32", "fp32"): 1e-5,
    ("fp32", "fp16"): 1e-3,
    ("fp32", "int8"): 2e-2,
    ("fp32", "int4"): 2e-1,
    ("fp16", "fp16"): 1e-5,
    ("bf16", "fp32"): 1e-5,
    ("int8", "fp32"): 1e-5,
    ("int4", "fp32"): 1e-5,
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A model and its bundle, by precision of the checkpoint."""
    folder = tmp_path_factory.mktemp("block_graph")
    return {source: export(folder / source, source) for source in {one for one, _ in TOLERANCE}}


def export(folder, source):
    bits = int(source.removeprefix("int")) if source.startswith("int") else None
    precision = source if bits is None else "fp16"
    tensors = write_checkpoint(
        folder / "checkpoint", SHAPE, precision=precision, quantised_bits=bits
    )
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    stored = tuple(to for origin, to in TOLERANCE if origin == source)
    export_bundle(ExportRequest(folder / "checkpoint", folder / "bundle", stored))
    return reference.Model(tensors, config), open_bundle(folder / "bundle", verify=True)


def load(bundle, part, precision, inputs, outputs):
    selection = select_variant(bundle.manifest, part, "mnn", precision)
    return MnnPart(bundle.file(selection.variant.files[0]), list(inputs), list(outputs))


def sequence(rng, config, length):
    """Random tokens with [gMASK] and <sop> somewhere inside."""
    ids = list(rng.integers(5, 80, length))
    start = int(rng.integers(1, length - 1))
    ids[start - 1 : start + 1] = [config["gmask_token_id"], config["bos_token_id"]]
    return [int(one) for one in ids]


def tables(where, head_dim):
    """cos and sin [2, S, head_dim / 4] from the definition of rotary embeddings."""
    frequency = 10000.0 ** (-np.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angle = where[:, :, None] * frequency
    return np.cos(angle), np.sin(angle)


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize(("source", "stored"), TOLERANCE)
@pytest.mark.parametrize(("batch", "new", "cached"), [
    (1, 1, 5), (1, 1, 37), (1, 7, 0), (2, 1, 12), (2, 5, 3), (3, 16, 0), (3, 2, 9),
])  # fmt: skip
def test_block_agrees_with_numpy(exports, source, stored, batch, new, cached):
    model, bundle = exports[source]
    run = load(bundle, "block_1", stored, BLOCK_INPUTS, BLOCK_OUTPUTS)
    rng = np.random.default_rng(batch * 1000 + new * 10 + cached)
    dim, order = SHAPE.hidden // SHAPE.heads, key_order(SHAPE.hidden // SHAPE.heads)
    rows, expected = [], []
    for _ in range(batch):
        ids = sequence(rng, model.config, cached + new)
        where = reference.positions(ids, model.config)
        visible = reference.may_see(ids, model.config)
        x = rng.standard_normal((cached + new, SHAPE.hidden))
        whole = reference.block(model, 1, x, where, visible)
        cos, sin = tables(where[:, cached:], dim)
        rows.append({
            "x": x[cached:],
            "mask": np.where(visible[cached:], 0.0, -10000.0)[None],
            "cos": cos,
            "sin": sin,
            "past_k": whole.keys[:, :cached, order].transpose(0, 2, 1),
            "past_v": whole.values[:, :cached],
        })  # fmt: skip
        expected.append({
            "y": whole.y[cached:],
            "new_k": whole.keys[:, cached:, order].transpose(0, 2, 1),
            "new_v": whole.values[:, cached:],
        })  # fmt: skip
    results = run(**{name: np.stack([row[name] for row in rows]) for name in BLOCK_INPUTS})
    for name in BLOCK_OUTPUTS:
        wanted = np.stack([one[name] for one in expected])
        assert results[name].shape == wanted.shape
        assert relative_error(results[name], wanted) < TOLERANCE[source, stored], name


def test_masked_slots_change_nothing(exports):
    """Rows padded with masked cache slots compute what they compute without them."""
    _, bundle = exports["fp32"]
    run = load(bundle, "block_0", "fp32", BLOCK_INPUTS, BLOCK_OUTPUTS)
    rng = np.random.default_rng(3)
    dim = SHAPE.hidden // SHAPE.heads
    inputs = {
        "x": rng.standard_normal((1, 1, SHAPE.hidden)),
        "mask": np.zeros((1, 1, 1, 6)),
        "cos": np.cos(np.ones((1, 2, 1, dim // 4))),
        "sin": np.sin(np.ones((1, 2, 1, dim // 4))),
        "past_k": rng.standard_normal((1, SHAPE.heads, dim, 5)),
        "past_v": rng.standard_normal((1, SHAPE.heads, 5, dim)),
    }
    padded = dict(inputs)
    padded["past_k"] = np.concatenate(
        [inputs["past_k"], np.full((1, SHAPE.heads, dim, 11), 7.0)], -1
    )
    padded["past_v"] = np.concatenate(
        [inputs["past_v"], np.full((1, SHAPE.heads, 11, dim), 7.0)], -2
    )
    padded["mask"] = np.concatenate(
        [np.zeros((1, 1, 1, 5)), np.full((1, 1, 1, 11), -10000.0), np.zeros((1, 1, 1, 1))], -1
    )
    assert relative_error(run(**padded)["y"], run(**inputs)["y"]) < 1e-6


@pytest.mark.parametrize(("source", "stored"), TOLERANCE)
def test_lm_head_agrees_with_numpy(exports, source, stored):
    model, bundle = exports[source]
    run = load(bundle, "lm_head", stored, LM_HEAD_INPUTS, LM_HEAD_OUTPUTS)
    x = np.random.default_rng(1).standard_normal((3, 1, SHAPE.hidden))
    logits = run(x=x)["logits"]
    assert logits.shape == (3, 1, SHAPE.vocab)
    assert relative_error(logits, reference.head(model, x)) < TOLERANCE[source, stored]


def test_chained_blocks_give_the_whole_model(exports):
    model, bundle = exports["fp32"]
    ids = sequence(np.random.default_rng(8), model.config, 20)
    whole = reference.forward(model, ids)
    where, visible = reference.positions(ids, model.config), reference.may_see(ids, model.config)
    dim = SHAPE.hidden // SHAPE.heads
    cos, sin = tables(where, dim)
    hidden = whole.hidden[0][None]
    for number in range(SHAPE.blocks):
        run = load(bundle, f"block_{number}", "fp32", BLOCK_INPUTS, BLOCK_OUTPUTS)
        hidden = run(
            x=hidden,
            mask=np.where(visible, 0.0, -10000.0)[None, None],
            cos=cos[None],
            sin=sin[None],
            past_k=np.zeros((1, SHAPE.heads, dim, 0)),
            past_v=np.zeros((1, SHAPE.heads, 0, dim)),
        )["y"]
        assert relative_error(hidden[0], whole.hidden[number + 1]) < 1e-5
    logits = load(bundle, "lm_head", "fp32", LM_HEAD_INPUTS, LM_HEAD_OUTPUTS)(x=hidden[:, -1:])
    assert relative_error(logits["logits"][0, 0], whole.logits[-1]) < 1e-5


@given(st.sampled_from(range(4, 513, 4)))
def test_scale_factors_survive_fp16(head_dim):
    """Both are fp16 numbers, and their product is the scale to fp32's rounding or little more."""
    scale = head_dim**-0.5
    factors = half_factors(scale)
    assert all(float(np.float16(one)) == one for one in factors)
    assert abs(factors[0] * factors[1] / scale - 1) < 4e-6
