"""Whole exports of decoders: stored how, the same bytes each time, and a check that sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.embedding import EmbeddingFile
from runtime.export.check import CheckReport, check_bundle
from runtime.export.check_gate import require_close
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.export.workspace import workspace_of
from scheduler.errors import BundleError, CheckpointError, UserInputError
from tests.support.block_runs import relative_error
from tests.support.llama_checkpoint import LLAMA, QWEN3, random_tensors, write_checkpoint
from tests.support.mnn_part import MnnPart

EMBEDDING = "model.embed_tokens.weight"
LAYERS = {"query_key_value", "dense", "gate_up", "down", "keys", "values", "y"}


def exported(folder: Path, *precisions: Any, **options: Any) -> dict[str, bytes]:
    """Export ``folder/c``; every file of the bundle by its path."""
    out = folder / options.pop("out", "b")
    export_bundle(ExportRequest(folder / "c", out, precisions or ("fp16",), **options))
    return {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_embedding_is_kept_exactly_in_the_type_of_the_checkpoint(
    tmp_path: Path, precision: str
) -> None:
    tensors = write_checkpoint(tmp_path / "c", precision=precision)
    files = exported(tmp_path)
    manifest = open_bundle(tmp_path / "b", verify=True).manifest
    assert manifest.embedding.dtype == manifest.source_precision == precision
    stored = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[precision]
    assert files[f"embedding.{precision}"] == tensors[EMBEDDING].astype(stored).tobytes()
    path = tmp_path / "b" / manifest.embedding.file.path
    found = EmbeddingFile(path, 96, 64, manifest.embedding.dtype).lookup([5, 95, 5])
    np.testing.assert_array_equal(found, tensors[EMBEDDING][[5, 95, 5]])


def test_an_embedding_that_fewer_bits_hold_takes_them(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors[EMBEDDING] = tensors[EMBEDDING].astype(ml_dtypes.bfloat16).astype(np.float32)
    write_checkpoint(tmp_path / "c", precision="fp32", tensors=tensors)
    assert "embedding.bf16" in exported(tmp_path)


def test_the_same_bytes_whatever_shards_jobs_and_order(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", QWEN3)
    one = exported(tmp_path, "fp16", "int4", jobs=1)
    write_checkpoint(tmp_path / "c", QWEN3, shards=3)
    other = exported(tmp_path, "int4", out="other", jobs=2)
    other = exported(tmp_path, "fp16", out="other", jobs=2)
    assert len(one) == 3 * 4 + 3
    differing = {name for name in one if one[name] != other.get(name)}
    assert differing == {"manifest.json"}  # the source's files, and the order of what was made


def test_an_interrupted_export_goes_on(tmp_path: Path) -> None:
    config = LLAMA | {"num_hidden_layers": 6}
    write_checkpoint(tmp_path / "c", config)
    out = tmp_path / "b"
    words = [sys.executable, "-m", "runtime.cli", "export", tmp_path / "c", "--out", out]
    child = subprocess.Popen([*map(str, words), "--jobs", "1"], stderr=subprocess.PIPE)
    made = workspace_of(out) / "mnn-fp16" / "block_01.mnn"
    while not made.exists():
        assert child.poll() is None, child.stderr
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    resumed = exported(tmp_path, "fp16", resume=True)
    assert {name: resumed[name] for name in resumed} == exported(tmp_path, "fp16", out="whole")


@pytest.mark.parametrize("epsilon", [1e-05, 1e-06, 1.5625e-07])
def test_an_epsilon_that_fp16_cannot_hold_stays_exact_in_fp16_files(
    tmp_path: Path, epsilon: float
) -> None:
    """Hidden states so small that the epsilon decides about the norm."""
    config = LLAMA | {"rms_norm_eps": epsilon}
    tensors = write_checkpoint(tmp_path / "c", config, precision="fp16")
    exported(tmp_path)
    part = MnnPart(tmp_path / "b" / "mnn-fp16" / "lm_head.mnn", ["x"], ["logits"])
    x = np.random.default_rng(0).normal(0, epsilon**0.5, (1, 1, 64)).astype(np.float32)
    normed = x / np.sqrt((x.astype(float) ** 2).mean() + epsilon) * tensors["model.norm.weight"]
    assert relative_error(part(x=x)["logits"], normed @ tensors["lm_head.weight"].T) < 1e-6


def test_weights_are_rounded_to_the_nearest_fp16(tmp_path: Path) -> None:
    tensors = write_checkpoint(tmp_path / "c", precision="fp32")
    exported(tmp_path)
    part = MnnPart(tmp_path / "b" / "mnn-fp16" / "lm_head.mnn", ["x"], ["logits"])
    x = np.random.default_rng(0).normal(size=(1, 1, 64)).astype(np.float32)
    norm = tensors["model.norm.weight"]  # stays as it is
    normed = x / np.sqrt((x.astype(float) ** 2).mean() + LLAMA["rms_norm_eps"]) * norm
    nearest = tensors["lm_head.weight"].astype(np.float16).astype(float)
    assert relative_error(part(x=x)["logits"], normed @ nearest.T) < 1e-6


def test_values_beyond_fp16_are_refused_for_fp16_only(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = 7e4
    write_checkpoint(tmp_path / "c", tensors=tensors)
    with pytest.raises(CheckpointError, match=r"65504.*block_1"):
        exported(tmp_path)
    exported(tmp_path, "fp32")


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (48, None),
        (96, None),
        (64, "does not divide the width 96 of c; usable: 16, 32, 48, 96."),
        (40, "--weight-block is 40; expected a multiple of 16."),
        (None, None),
    ],
)
def test_weight_blocks_that_divide_every_width(
    tmp_path: Path, block: int | None, said: str | None
) -> None:
    config = LLAMA | {"hidden_size": 96, "intermediate_size": 192}
    write_checkpoint(tmp_path / "c", config)
    if said is not None:
        with pytest.raises(UserInputError) as caught:
            exported(tmp_path, "int4", weight_block=block)
        assert said in str(caught.value)
        return
    exported(tmp_path, "int4", weight_block=block)
    variant = open_bundle(tmp_path / "b").manifest.parts[0].variants[0]
    assert variant.weight_block == (block or 32)
    require_close(check_bundle(tmp_path / "c", tmp_path / "b"), tmp_path / "b")


def test_a_width_that_no_usual_block_divides_has_a_scale_per_row(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", LLAMA | {"hidden_size": 80, "intermediate_size": 160})
    exported(tmp_path, "int4", "int8")
    assert open_bundle(tmp_path / "b").manifest.parts[0].variants[0].weight_block is None
    require_close(check_bundle(tmp_path / "c", tmp_path / "b"), tmp_path / "b")


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckReport]:
    folder = tmp_path_factory.mktemp("checked")
    write_checkpoint(folder / "c", QWEN3 | {"tie_word_embeddings": True})
    exported(folder, "fp32", "fp16", "int8", "int4")
    return folder, check_bundle(folder / "c", folder / "b")


def test_a_check_compares_every_layer_of_every_part(checked: tuple[Path, CheckReport]) -> None:
    folder, report = checked
    require_close(report, folder / "b")
    assert report.tokens > 40
    for part in report.parts:
        assert set(part.errors) == ({"logits"} if part.part == "lm_head" else LAYERS)
        if part.encoding in ("mnn fp32", "mnn fp16"):  # bf16 values of this size are fp16 values
            assert max(part.errors.values()) < 1e-6
        else:
            assert 1e-3 < part.errors.get("down", 0.01) < 0.2


def test_a_check_sees_the_weights_of_another_model(
    checked: tuple[Path, CheckReport], tmp_path: Path
) -> None:
    folder, _ = checked
    write_checkpoint(tmp_path / "c", QWEN3 | {"tie_word_embeddings": True}, seed=1)
    report = check_bundle(tmp_path / "c", folder / "b")
    assert all(error > 0.5 for error in report.parts[0].errors.values())
    with pytest.raises(BundleError, match="that rounding explains"):
        require_close(report, folder / "b")


def test_the_check_of_the_command_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c")
    words = ["export", tmp_path / "c", "--out", tmp_path / "b", "--precision", "int8", "--check"]
    child = subprocess.run(
        [sys.executable, "-m", "runtime.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "gate/up" in child.stdout
    assert "same most likely token" in child.stdout


def test_a_name_that_no_bundle_may_have_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("n" * 201)
    write_checkpoint(folder)
    with pytest.raises(UserInputError, match="The model's name has 201 characters"):
        export_bundle(ExportRequest(folder, tmp_path / "b", ("fp16",)))
    export_bundle(ExportRequest(folder, tmp_path / "b", ("fp16",), name="n"))


def test_a_sliding_window_ends_the_context_aloud(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", LLAMA | {"model_type": "mistral", "sliding_window": 32})

    def run(*words: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runtime.cli", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = run("export", tmp_path / "c", "--out", tmp_path / "b")
    assert "Its context ends at 32 tokens" in made.stdout
    assert "32 (its sliding window)" in run("bundle", "inspect", tmp_path / "b").stdout
    asked = run("plan", "--bundle", tmp_path / "b", "--vram", "11", "--context", "64")
    assert asked.returncode == 2
    assert asked.stderr == "glm-plan: --context is 64; c takes 1 to 32 tokens.\n"
