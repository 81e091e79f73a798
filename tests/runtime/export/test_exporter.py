"""Whole exports: what comes out, what is refused, and what an interruption leaves."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from runtime.bundle import open_bundle, read_manifest
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.export.workspace import workspace_of
from scheduler.errors import BundleError, CheckpointError, UserInputError
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=32, heads=2, blocks=3, vocab=64)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model"
    write_checkpoint(path, SHAPE)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "bundles" / "b"


def refusal(kind, request):
    with pytest.raises(kind) as caught:
        export_bundle(request)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_a_bundle_is_what_its_checkpoint_says(checkpoint, out):
    seen = []
    request = ExportRequest(checkpoint, out, ("fp16", "int8"), head_precisions=("int8",))
    manifest = export_bundle(request, seen.append)
    bundle = open_bundle(out, verify=True)
    assert bundle.manifest == manifest
    assert manifest.model == "model"
    assert manifest.geometry.blocks == 3
    assert manifest.tokens.model_dump() == {
        "mask": 59,
        "gmask": 60,
        "bos": 62,
        "eos": 63,
        "pad": 3,
    }
    made = {part.name: [one.precision for one in part.variants] for part in manifest.parts}
    assert made == {f"block_{n}": ["fp16", "int8"] for n in range(3)} | {"lm_head": ["int8"]}
    assert manifest.source_precision == "fp16"
    assert (out / "tokenizer" / "ice_text.model").read_bytes() == (
        checkpoint / "ice_text.model"
    ).read_bytes()
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert not workspace_of(out).exists()
    listed = {file.path for file in manifest.files()} | {"manifest.json"}
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == listed


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_the_embedding_is_bf16_to_nearest_even(tmp_path, out, precision):
    tensors = write_checkpoint(tmp_path / "c", SHAPE, precision=precision)
    export_bundle(ExportRequest(tmp_path / "c", out, ("int8",)))
    expected = tensors["transformer.word_embeddings.weight"].astype(ml_dtypes.bfloat16)
    assert (out / "embedding.bf16").read_bytes() == expected.tobytes()


def test_the_file_format_of_the_checkpoint_does_not_matter(tmp_path):
    made = []
    for number, (layout, shards) in enumerate([("safetensors", 1), ("torch", 2)]):
        write_checkpoint(tmp_path / f"c{number}", SHAPE, layout=layout, shards=shards)
        request = ExportRequest(tmp_path / f"c{number}", tmp_path / f"b{number}", ("int4",))
        manifest = export_bundle(request)
        weights = [file for file in manifest.files() if file.path.endswith(".weight")]
        made.append({file.path: file.sha256 for file in weights})
    assert made[0] == made[1]
    assert len(made[0]) == 4


def test_first_release_becomes_slim(tmp_path, out):
    shape = Shape(hidden=8, heads=1, blocks=1, vocab=150528)
    ids = {"bos_token_id": 150004, "eos_token_id": 150005, "pad_token_id": 20003}
    none = {"mask_token_id": None, "gmask_token_id": None}
    write_checkpoint(tmp_path / "c", shape, config=ids | none)
    manifest = export_bundle(ExportRequest(tmp_path / "c", out, ("fp16",)))
    assert manifest.geometry.vocab_size == 130528
    assert manifest.tokens.model_dump() == {
        "mask": 130000,
        "gmask": 130001,
        "bos": 130004,
        "eos": 130005,
        "pad": 3,
    }
    assert manifest.tokenizer.id_offset == 0
    assert (out / "embedding.bf16").stat().st_size == 130528 * 8 * 2


def test_an_existing_bundle_is_kept(checkpoint, out, tmp_path):
    export_bundle(ExportRequest(checkpoint, out, ("fp16",)))
    before = (out / "manifest.json").read_bytes()
    assert "has all of that" in refusal(UserInputError, ExportRequest(checkpoint, out, ("fp16",)))
    write_checkpoint(tmp_path / "other", SHAPE, seed=1)
    other = ExportRequest(tmp_path / "other", out, ("int8",))
    assert "another checkpoint" in refusal(UserInputError, other)
    assert (out / "manifest.json").read_bytes() == before
    export_bundle(ExportRequest(tmp_path / "other", out, ("int8",), force=True))
    assert [one.precision for one in read_manifest(out).parts[0].variants] == ["int8"]
    open_bundle(out, verify=True)


def test_a_bundle_of_the_same_checkpoint_gains_precisions(checkpoint, out):
    first = export_bundle(ExportRequest(checkpoint, out, ("fp16",)))
    export_bundle(ExportRequest(checkpoint, out, ("int4", "int8")))
    second = open_bundle(out, verify=True).manifest
    kinds = [one.precision for one in second.parts[0].variants]
    assert kinds == ["fp16", "int4", "int8"]
    assert second.parts[0].variants[0] == first.parts[0].variants[0]


def test_nothing_but_a_bundle_is_overwritten(checkpoint, out):
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("keep")
    for force in (False, True):
        request = ExportRequest(checkpoint, out, ("fp16",), force=force)
        assert "is not a whole bundle" in refusal(UserInputError, request)
    assert (out / "mine.txt").read_text() == "keep"


def test_bad_input_leaves_nothing(checkpoint, out):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.layers.2.attention.dense.weight"][3, 4] = np.inf
    save_file(tensors, checkpoint / "model.safetensors")
    assert "attention.dense" in refusal(CheckpointError, ExportRequest(checkpoint, out, ("fp16",)))
    assert not out.parent.exists()


def test_values_beyond_fp16_are_refused_for_fp16_only(tmp_path, out):
    from tests.support.chatglm_checkpoint import random_tensors

    tensors = random_tensors(SHAPE)
    tensors["transformer.layers.1.mlp.dense_4h_to_h.weight"][0, 0] = 7e4
    write_checkpoint(tmp_path / "c", SHAPE, precision="bf16", tensors=tensors)
    message = refusal(CheckpointError, ExportRequest(tmp_path / "c", out, ("fp16",)))
    assert "65504" in message
    assert "block_1" in message
    export_bundle(ExportRequest(tmp_path / "c", out, ("fp32",)))


@pytest.mark.parametrize(("block", "fits"), [(32, True), (64, False), (128, False)])
def test_weight_blocks_must_divide_the_width(checkpoint, out, block, fits):
    request = ExportRequest(checkpoint, out, ("int4",), weight_block=block)
    if fits:
        assert export_bundle(request).parts[0].variants[0].weight_block == block
    else:
        assert f"--weight-block {block} does not divide" in refusal(UserInputError, request)


def test_a_full_disk_is_foreseen(checkpoint, out, monkeypatch):
    from runtime.export import resources

    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: free)
    assert "free and this export needs" in refusal(
        UserInputError, ExportRequest(checkpoint, out, ("fp16",))
    )
    assert not out.parent.exists()


def test_a_path_that_cannot_be_written_is_one_sentence(checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refusal(BundleError, ExportRequest(checkpoint, tmp_path / "file" / "b", ("fp16",)))
    assert "Not a directory" in message


def test_a_disk_that_fails_is_one_sentence(checkpoint, out):
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from runtime.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    words = [sys.executable, "-c", code, "export", checkpoint, "--out", out]
    child = subprocess.run(words, capture_output=True, text=True, check=False)
    assert child.returncode == 2
    assert "File too large" in child.stderr
    assert "Traceback" not in child.stderr
    assert not out.exists()
