"""`glm-plan devices` as a real process, with and without a stand-in NVIDIA driver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.ort_proof import ORT_KINDS
from runtime.backends.proof import BackendReport, BackendStatus
from runtime.cli.devices import hint
from runtime.cli.devices_view import gpu_rows
from scheduler.hardware import Cpu, Gpu, Host

Environment = Callable[..., dict[str, str]]
REPOSITORY = Path(__file__).parents[3]
MIB = 1024**2

HELP = """\
Usage: glm-plan devices [OPTIONS]

  Show GPUs, CPU, memory and the backends that really work.

  Everything is measured anew at each call. Backends are proved in child
  processes, each with a small computation that must agree with NumPy. A missing
  GPU or driver is reported, not an error.

Options:
  --json       Print one JSON document (glm-plan/devices/1).
  --self-test  Run a block at every precision on every backend that works: error
               and speed.
  -h, --help   Show this message and exit.
"""


def devices(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", "devices", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def as_json(environment: dict[str, str] | None = None) -> dict[str, Any]:
    done = devices("--json", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture
def no_driver(fake_nvml: Environment, tmp_path: Path) -> dict[str, str]:
    """A machine without a driver, whatever this one has: the library that is found is not one."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    return fake_nvml(LD_LIBRARY_PATH=str(tmp_path))


def numbers(device: dict[str, Any]) -> set[str]:
    return {
        key
        for key, value in device.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def test_help() -> None:
    # Compared word by word: line ends depend on the width of the terminal.
    assert devices("--help").stdout.split() == HELP.split()


def test_json_of_a_machine_without_a_driver(no_driver: dict[str, str]) -> None:
    document = as_json(no_driver)
    assert list(document) == ["schema", "gpus", "cpu", "engines", "notes", "hint"]
    assert document["schema"] == "glm-plan/devices/1"
    assert document["gpus"] == []
    assert any("No NVIDIA driver was found" in note for note in document["notes"])
    assert "--vram" in document["hint"]
    engine, other = document["engines"]
    assert (engine["name"], other["name"]) == ("mnn", "ort")
    (cpu,) = [backend for backend in engine["backends"] if backend["name"] == "mnn:cpu"]
    assert cpu["status"] == "works"
    assert 0 < cpu["relative_error"] < 1e-4
    statuses = {backend["name"]: backend["status"] for backend in other["backends"]}
    assert set(statuses) == {f"ort:{kind}" for kind in ORT_KINDS}
    assert statuses["ort:cpu"] in ("works", "missing")


def test_the_self_test_names_error_and_speed_of_every_precision(no_driver: dict[str, str]) -> None:
    done = devices("--json", "--self-test", environment=no_driver)
    assert done.returncode == 0, done.stderr
    backends = [one for engine in json.loads(done.stdout)["engines"] for one in engine["backends"]]
    tested = {one["name"]: one["self_test"] for one in backends if "self_test" in one}
    assert set(tested) == {one["name"] for one in backends if one["status"] == "works"}
    for test in tested.values():
        assert test["problem"] is None
        assert set(test["results"]) == {"fp32", "fp16", "int8", "int4"}
        assert test["results"]["fp32"]["relative_error"] < 1e-4
        assert all(one["step_ms"] > 0 for one in test["results"].values())


def test_json_of_a_machine_with_two_gpus(fake_nvml: Environment) -> None:
    document = as_json(fake_nvml(gpus="NVIDIA A|24576|20480;NVIDIA B|8192|4096"))
    assert [(gpu["name"], gpu["free_bytes"]) for gpu in document["gpus"]] == [
        ("gpu0", 20480 * MIB),
        ("gpu1", 4096 * MIB),
    ]


def test_every_number_says_where_it_comes_from(fake_nvml: Environment) -> None:
    document = as_json(fake_nvml())
    backends = document["engines"][0]["backends"]
    for thing in (*document["gpus"], document["cpu"], *backends):
        assert numbers(thing) == set(thing["provenance"]) - {"processes"}
    (gpu,) = document["gpus"]
    assert gpu["provenance"]["processes"] == "measured"
    assert gpu["provenance"]["free_bytes"] == "measured"
    assert gpu["provenance"]["bandwidth_gbps"] == "estimated"


def test_unknown_memory_is_null_and_has_no_provenance(fake_nvml: Environment) -> None:
    document = as_json(fake_nvml(fail="nvmlDeviceGetMemoryInfo=3,nvmlDeviceGetMemoryInfo_v2=3"))
    (gpu,) = document["gpus"]
    assert gpu["free_bytes"] is None
    assert "free_bytes" not in gpu["provenance"]
    assert "--vram" in document["hint"]


def test_terminal_view_labels_its_numbers(fake_nvml: Environment) -> None:
    done = devices(environment=fake_nvml(gpus="NVIDIA [red]|24576|20480"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    # A name that looks like markup is printed as it is.
    assert "gpu0 NVIDIA [red]" in lines
    assert "memory 20.00 GiB free of 24.00 GiB measured (NVML)" in lines
    assert "bandwidth 936 GB/s peak (384 bit, 9751 MHz) estimated" in lines
    assert any(re.fullmatch("mnn:cpu works: .* measured", line) for line in lines)
    assert lines[-1].startswith("next ")


def test_a_gpu_of_another_maker_says_who_counted_its_memory(
    no_driver: dict[str, str], fake_vulkan: Environment
) -> None:
    other = fake_vulkan(gpus="Intel Arc A770 (DG2)|8086|56a0|2|0000:03:00.0|16384|15000|0")
    other["LD_LIBRARY_PATH"] += f":{no_driver['LD_LIBRARY_PATH']}"
    (gpu,) = as_json(no_driver | other)["gpus"]
    assert (gpu["name"], gpu["model_name"], gpu["vendor"]) == ("gpu0", "Intel Arc A770", "Intel")
    assert (gpu["free_bytes"], gpu["memory_source"]) == (15000 * MIB, "Vulkan")
    assert gpu["provenance"]["free_bytes"] == "measured"
    shown = Gpu("gpu0", "Intel Arc A770", 16384 * MIB, 15000 * MIB, memory_source="Vulkan")
    assert gpu_rows(shown)[0] == ("memory", "14.65 GiB free of 16.00 GiB", "measured (Vulkan)")


def test_terminal_view_without_a_driver(no_driver: dict[str, str]) -> None:
    done = devices(environment=no_driver)
    assert done.returncode == 0
    assert "note  No NVIDIA driver was found" in done.stdout
    assert "gpu0" not in done.stdout


def test_a_missing_engine_is_reported_not_raised(no_driver: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "MNN.py").write_text("raise ModuleNotFoundError('no MNN', name='MNN')")
    environment = no_driver | {"PYTHONPATH": str(tmp_path)}
    document = as_json(environment)
    assert document["engines"][0]["version"] is None
    assert "pip install MNN" in document["hint"]


def test_an_unknown_option_is_bad_input() -> None:
    done = devices("--bogus")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--bogus" in done.stderr
    assert "Traceback" not in done.stderr


CPU = Cpu("any", 1, 1, 1, 1)
GPU = Gpu(name="gpu0", model_name="any", total_bytes=1, free_bytes=1)


@pytest.mark.parametrize(
    ("gpus", "working", "said"),
    [
        ((), ["cpu"], "glm-plan --vram 11"),
        ((GPU,), ["cpu"], "pip install 'glm-plan[gpu]'"),
        ((GPU,), ["cpu", "cuda"], "glm-plan plan"),
        ((GPU,), [], "force-reinstall"),
    ],
)
def test_the_hint_names_the_next_step(gpus: tuple[Gpu, ...], working: list[str], said: str) -> None:
    statuses = tuple(BackendStatus(kind, "works", "It does.") for kind in working)
    assert said in hint(Host(CPU, gpus), [BackendReport("mnn", "9.9.9", statuses)])
