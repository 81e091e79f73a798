"""Every published layout of a checkpoint becomes a bundle that computes what the model does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runtime.bundle import open_bundle, select_variant
from runtime.export.block_graph import (
    BLOCK_INPUTS,
    BLOCK_OUTPUTS,
    LM_HEAD_INPUTS,
    LM_HEAD_OUTPUTS,
)
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.reference import chatglm_numpy as reference
from tests.support.chatglm_checkpoint import Shape, write_checkpoint
from tests.support.mnn_part import MnnPart

SHAPE = Shape(hidden=64, heads=2, blocks=2, vocab=96)
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3}  # of the norm, after any number of the two blocks
# Every layout and every source precision; test_every_value_arrives reads their whole product.
LAYOUTS = [
    {"layout": "safetensors", "shards": 1, "precision": "fp16"},
    {"layout": "safetensors", "shards": 3, "precision": "bf16"},
    {"layout": "safetensors", "shards": 1, "precision": "fp32", "tied": True},
    {"layout": "torch", "shards": 1, "precision": "fp32"},
    {"layout": "torch", "shards": 3, "precision": "fp16"},
    {"layout": "torch", "shards": 2, "precision": "fp16", "quantised_bits": 8},
    {"layout": "torch", "shards": 1, "precision": "fp16", "quantised_bits": 4},
]


@pytest.mark.parametrize("written", LAYOUTS, ids=lambda one: "-".join(map(str, one.values())))
def test_hidden_states_agree_with_the_reference(tmp_path, written):
    tensors = write_checkpoint(tmp_path / "c", SHAPE, **written)
    tensors.setdefault("lm_head.weight", tensors["transformer.word_embeddings.weight"])
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    export_bundle(ExportRequest(tmp_path / "c", tmp_path / "b", tuple(TOLERANCE)))
    bundle = open_bundle(tmp_path / "b", verify=True)
    ids = [20, 31, 42, 53, config["gmask_token_id"], config["bos_token_id"], 11, 22, 33]
    model = reference.Model(tensors, config)
    whole = reference.forward(model, ids)
    for precision, tolerance in TOLERANCE.items():
        hidden = chained(bundle, precision, ids, config, whole.hidden[0])
        for number, (ours, theirs) in enumerate(zip(hidden, whole.hidden[1:], strict=True)):
            assert relative_error(ours, theirs) < tolerance, (precision, number)
        head = part(bundle, "lm_head", precision, LM_HEAD_INPUTS, LM_HEAD_OUTPUTS)
        logits = head(x=hidden[-1][None, -1:])["logits"][0, 0]
        assert relative_error(logits, whole.logits[-1]) < tolerance, precision


def chained(bundle, precision, ids, config, embedded):
    """Hidden states after each block, from a prefill without history."""
    where, visible = reference.positions(ids, config), reference.may_see(ids, config)
    dim = SHAPE.hidden // SHAPE.heads
    angle = where[:, :, None] * 10000.0 ** (-np.arange(0, dim // 2, 2) / (dim // 2))
    hidden = [embedded]
    for number in range(SHAPE.blocks):
        run = part(bundle, f"block_{number}", precision, BLOCK_INPUTS, BLOCK_OUTPUTS)
        results = run(
            x=hidden[-1][None],
            mask=np.where(visible, 0.0, -10000.0)[None, None],
            cos=np.cos(angle)[None],
            sin=np.sin(angle)[None],
            past_k=np.zeros((1, SHAPE.heads, dim, 0)),
            past_v=np.zeros((1, SHAPE.heads, 0, dim)),
        )
        hidden.append(results["y"][0])
    return hidden[1:]


def part(bundle, name, precision, inputs, outputs):
    variant = select_variant(bundle.manifest, name, "mnn", precision).variant
    assert variant.precision == precision
    return MnnPart(bundle.file(variant.files[0]), list(inputs), list(outputs))


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
