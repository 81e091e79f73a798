"""The comparison of a bundle with its checkpoint: honest numbers, and damage that shows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from runtime.export import check
from runtime.export.check import check_bundle
from runtime.export.checkpoint import Checkpoint
from runtime.export.exporter import export_bundle
from runtime.export.numpy_block import Sequence, block, lm_head
from runtime.export.request import ExportRequest
from tests.reference import chatglm_numpy as reference
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=64, heads=2, blocks=3, vocab=96)
LAYERS = {"query_key_value", "dense", "up", "down", "keys", "values", "y"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("check")
    write_checkpoint(path / "c", SHAPE)
    request = ExportRequest(path / "c", path / "b", ("fp16", "int8"), head_precisions=("fp16",))
    export_bundle(request)
    return path


@pytest.fixture(scope="module")
def report(folder):
    seen = []
    result = check_bundle(folder / "c", folder / "b", seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes
    return result


def of(report, part, encoding):
    return next(one for one in report.parts if (one.part, one.encoding) == (part, encoding))


def test_every_part_and_encoding_is_there(report):
    blocks = {(f"block_{n}", to) for n in range(3) for to in ("mnn fp16", "mnn int8")}
    heads = {("lm_head", "mnn fp16"), ("lm_head", "mnn int8, lm_head mnn fp16")}
    assert {(one.part, one.encoding) for one in report.parts} == blocks | heads
    assert all(set(one.errors) == LAYERS for one in report.parts if one.part != "lm_head")
    assert set(report.same_top_token) == {"mnn fp16", "mnn int8, lm_head mnn fp16"}


def test_fp16_files_of_an_fp16_checkpoint_are_exact(report):
    for number in range(3):
        errors = of(report, f"block_{number}", "mnn fp16").errors
        assert all(errors[name] < 1e-6 for name in ("query_key_value", "dense", "down", "keys"))
        assert errors["y"] < 2e-5  # MNN's GELU


def test_int8_is_worse_and_adds_up(report):
    drifts = [of(report, f"block_{number}", "mnn int8").drift for number in range(3)]
    assert drifts == sorted(drifts)
    assert 1e-3 < of(report, "block_0", "mnn int8").errors["dense"] < 5e-2


def test_the_evaluation_itself_agrees_with_the_reference(folder):
    """What exports are compared with is compared with the independent model, in fp64."""
    checkpoint = Checkpoint(folder / "c")
    config = json.loads((folder / "c" / "config.json").read_text())
    from safetensors.numpy import load_file

    model = reference.Model(load_file(folder / "c" / "model.safetensors"), config)
    ids = [5, 9, 12, config["gmask_token_id"], config["bos_token_id"], 7, 20, 21]
    expected = reference.forward(model, ids)
    x = expected.hidden[1].astype(np.float32)
    found = block(x, checkpoint.block(1), Sequence(len(ids), 4, 3), SHAPE.heads, 1e-5)
    for name in ("keys", "values", "y"):
        wanted = getattr(expected.blocks[1], name)
        difference = np.linalg.norm(getattr(found, name) - wanted)
        assert difference / np.linalg.norm(wanted) < 2e-6, name
    logits = lm_head(expected.hidden[-1].astype(np.float32), checkpoint.head(), 1e-5)
    assert np.abs(logits - expected.logits).max() < 1e-4


def test_a_block_of_another_model_shows(folder, tmp_path):
    """Files from a different checkpoint, with a manifest that fits them."""
    write_checkpoint(tmp_path / "other", SHAPE, seed=7)
    export_bundle(ExportRequest(tmp_path / "other", tmp_path / "b", ("fp16",)))
    result = check_bundle(folder / "c", tmp_path / "b")
    assert of(result, "block_0", "mnn fp16").errors["dense"] > 0.5


def test_a_changed_weight_shows_in_its_layer_alone(folder, tmp_path):
    export_bundle(ExportRequest(folder / "c", tmp_path / "b", ("fp32",)))
    weights = tmp_path / "b" / "mnn-fp32" / "block_01.mnn.weight"
    values = np.fromfile(weights, np.float32)
    dense = Checkpoint(folder / "c").block(1).dense.weight
    start = next(
        index
        for index in np.flatnonzero(values == dense[0, 0])
        if (values[index : index + 64] == dense[0]).all()
    )
    values[start] += 5.0
    values.tofile(weights)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    entry = manifest["parts"][1]["variants"][0]["files"][1]
    entry["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    result = check_bundle(folder / "c", tmp_path / "b")
    errors = of(result, "block_1", "mnn fp32").errors
    assert errors["dense"] > 1e-2
    assert max(errors[name] for name in ("query_key_value", "down", "keys", "values")) < 1e-5
    assert of(result, "block_2", "mnn fp32").errors["y"] < 2e-5


def test_the_text_is_read_by_the_models_own_tokenizer(folder):
    from runtime.bundle import open_bundle

    bundle = open_bundle(folder / "b")
    ids = check._token_ids(bundle)
    tokens = bundle.manifest.tokens
    assert ids.count(tokens.gmask) == ids.count(tokens.bos) == 1
    assert ids.index(tokens.bos) == ids.index(tokens.gmask) + 1
    assert 10 < ids.index(tokens.bos) < len(ids) - 10


def test_command_prints_one_json_document(folder, tmp_path):
    words = ["export", folder / "c", "--out", tmp_path / "b", "--precision", "int8", "--check"]
    child = subprocess.run(
        [sys.executable, "-m", "runtime.cli", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    printed = json.loads(child.stdout)
    assert [one["part"] for one in printed["check"]["parts"]][-1] == "lm_head"
    shown = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "bundle", "check", tmp_path / "b", folder / "c"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "measured relative error" in shown.stdout
    assert "same most likely token" in shown.stdout
