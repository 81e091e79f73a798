"""`glm-plan calibrate` as a process, with the real MNN on narrow blocks; no time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.hardware import Cpu
from scheduler.host_profile import HostProfile
from scheduler.host_store import load_host, matching_host
from tests.support.tiny import REPOSITORY


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("home")
    return {
        **os.environ,
        "GLM_PLAN_CONFIG_DIR": str(folder / "config"),
        "GLM_PLAN_CACHE_DIR": str(folder / "cache"),
    }


def glm_plan(home: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        cwd=REPOSITORY,
        env=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def measured(home: dict[str, str]) -> HostProfile:
    done = glm_plan(home, "calibrate", "--width", "256", "--name", "here", "--json")
    assert done.returncode == 0, done.stderr
    return HostProfile.model_validate_json(done.stdout)


def test_every_measurement_is_there_with_its_fit(measured: HostProfile) -> None:
    told = [one.what for one in measured.evidence]
    for precision in ("fp32", "int8", "int4"):
        assert f"{precision} lm_head" in told
        assert f"{precision} block, prompt of 384" in told
        assert f"{precision} block, 4 rows, 16 cached" in told
    assert sum(what.startswith("hops") for what in told) == 3
    assert set(measured.devices["cpu"].weights) == {"fp32", "fp16", "int8", "int4"}
    assert {one.threads for one in measured.threads} >= {1}


def test_onnx_runtime_is_measured_beside_mnn(measured: HostProfile) -> None:
    pytest.importorskip("onnxruntime")
    told = [one.what for one in measured.evidence]
    assert "ort:cpu int4 block, 1 rows, 16 cached" in told
    assert "ort:cpu fp32 lm_head" in told
    found = measured.backends["ort:cpu"]
    assert set(found.weights) == {"fp32", "fp16", "int8", "int4"}
    assert found.source.endswith("with ort:cpu")


def test_a_plan_for_this_machine_takes_it_unasked(
    home: dict[str, str], measured: HostProfile
) -> None:
    plan = json.loads(glm_plan(home, "plan", "--gpu-blocks", "0", "--json").stdout)
    assert plan["speed"]["provenance"] == "calibrated"
    assert plan["speed"]["stages"][0]["source"] == measured.devices["cpu"].source


def test_a_report_on_this_machine_takes_it_too(
    home: dict[str, str], measured: HostProfile, tmp_path: Path
) -> None:
    source = measured.devices["cpu"].source

    def report(*more: str) -> str:
        out = tmp_path / "report.json"
        done = glm_plan(home, "report", "--vram", "1", *more, "--out", str(out))
        assert done.returncode == 0, done.stderr
        return out.read_text()

    assert source in report()
    assert source not in report("--cpu", "ryzen 9 3900x")


def test_parts_are_made_once(home: dict[str, str], measured: HostProfile) -> None:
    shelf = Path(home["GLM_PLAN_CACHE_DIR"])
    before = {file: file.stat().st_mtime_ns for file in shelf.rglob("*.weight")}
    again = glm_plan(home, "calibrate", "--width", "256", "--name", "again")
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in shelf.rglob("*.weight")} == before
    assert before


def test_splits_of_another_machine_are_used_when_named(
    home: dict[str, str], tmp_path: Path
) -> None:
    rows = tmp_path / "measurements.csv"
    rows.write_text("gpu_blocks,tokens_per_second\n0,1.14\n23,3.424\n")
    done = glm_plan(home, "calibrate", "--from", str(rows), "--name", "desk")
    assert done.returncode == 0, done.stderr
    words = ("--host", "desk", "--vram", "11", "--context", "64", "--json")
    plan = json.loads(glm_plan(home, *words).stdout)
    assert plan["speed"]["decode_tokens_per_second"] == pytest.approx(3.424, rel=1e-3)
    assert plan["speed"]["provenance"] == "calibrated"
    assert "--host desk" in plan["command"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("calibrate", "--model", "chatglm-6b"), "name the file"),
        (("calibrate", "--name", "../up"), "--name is"),
        (("calibrate", "--from", "no-such.csv"), "cannot be read"),
        (("plan", "--host", "nobody"), "is unknown"),
    ],
)
def test_refusals(home: dict[str, str], arguments: tuple[str, ...], part: str) -> None:
    done = glm_plan(home, *arguments)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_profile_is_left_out_with_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLM_PLAN_CONFIG_DIR", str(tmp_path))
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "bad.json").write_text("{")
    found, remarks = matching_host(Cpu("any", 1, 1, 1, 1))
    assert found is None
    assert "not JSON" in remarks[0]
    with pytest.raises(Exception, match="not JSON"):
        load_host("bad")
