"""The gate behind a check: rounding passes, other weights do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.export.check import CheckReport, PartCheck, check_bundle
from runtime.export.check_gate import LARGEST_ERROR, require_close
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from scheduler.errors import BundleError
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=64, heads=2, blocks=2, vocab=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gate")
    write_checkpoint(path / "c", SHAPE)
    write_checkpoint(path / "other", SHAPE, seed=1)
    export_bundle(ExportRequest(path / "c", path / "b", ("fp32", "fp16", "int8", "int4")))
    return path


def test_every_precision_passes_on_random_weights(folder):
    require_close(check_bundle(folder / "c", folder / "b"), folder / "b")


def run(*arguments):
    command = [sys.executable, "-m", "runtime.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_another_models_weights_end_with_code_2(folder):
    ran = run("bundle", "check", folder / "b", folder / "other")
    assert ran.returncode == 2
    assert "that rounding explains" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "drift" in ran.stdout


def test_a_checked_export_ends_well(folder, tmp_path):
    assert run("export", folder / "c", "--out", tmp_path / "b", "--check").returncode == 0


def report(error, encoding="mnn int8", part="block_0", name="values"):
    good = PartCheck("block_1", "mnn int8", {"y": 0.001}, 0.0)
    return CheckReport(9, [good, PartCheck(part, encoding, {name: error, "y": 0.001}, 0.0)])


@pytest.mark.parametrize("precision", list(LARGEST_ERROR))
def test_limits_hold_each_layer(tmp_path, precision):
    limit = LARGEST_ERROR[precision]
    encoding = f"mnn {precision}" + (" block 32" if precision == "int4" else "")
    require_close(CheckReport(9, [PartCheck("block_0", encoding, {"up": limit}, 9.0)]), tmp_path)
    with pytest.raises(BundleError, match="up of block_0"):
        require_close(
            CheckReport(9, [PartCheck("block_0", encoding, {"up": 1.01 * limit}, 0.0)]), tmp_path
        )


def test_numbers_that_are_none_do_not_pass(tmp_path):
    with pytest.raises(BundleError, match="values of block_0"):
        require_close(report(float("nan")), tmp_path)


def test_lm_head_is_held_to_its_own_precision(tmp_path):
    encoding = "mnn int4 block 128, lm_head mnn fp16"
    with pytest.raises(BundleError, match="logits of lm_head"):
        require_close(report(0.01, encoding, "lm_head", "logits"), tmp_path)
