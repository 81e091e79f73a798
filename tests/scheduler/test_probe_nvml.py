"""GPUs through NVML: the real nvidia-ml-py in a real process, loading a stand-in driver library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.probe.nvml import peak_bandwidth_gbps

Environment = Callable[..., dict[str, str]]
MIB = 1024**2

# Error codes of NVIDIA's nvml.h.
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND = 3, 4, 9, 13
GPU_IS_LOST, VERSION_MISMATCH, UNKNOWN = 15, 18, 999

_PROBE = """
import dataclasses, json
from scheduler.probe import probe_host
print(json.dumps([dataclasses.asdict(probe_host()) for _ in range({times})]))
"""


def probe(environment: dict[str, str], times: int = 1) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(times=times)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hosts: list[dict[str, Any]] = json.loads(done.stdout)
    return hosts


def test_one_gpu_is_read_completely(fake_nvml: Environment) -> None:
    (host,) = probe(fake_nvml())
    (gpu,) = host["gpus"]
    assert gpu == {
        "name": "gpu0",
        "model_name": "NVIDIA GeForce RTX 3090",
        "total_bytes": 24576 * MIB,
        "free_bytes": 20480 * MIB,
        "used_bytes": (24576 - 20480 - 256) * MIB,  # the driver's own reserve is not "used"
        "driver": "560.35.03",
        "compute_capability": "8.6",
        "bus_width_bits": 384,
        "memory_clock_mhz": 9751,
        "bandwidth_gbps": pytest.approx(936, abs=1),
        "display_attached": True,
        "uuid": "GPU-0000abc0-0000-4000-8000-000000000000",
        "processes": [
            {"pid": 77, "used_bytes": None},
            {"pid": 4242, "used_bytes": 1024 * MIB},
        ],
        "vendor": "NVIDIA",
        "memory_source": "NVML",
        "pci_address": "0000:0a:00.0",
        "shares_ram": False,
    }
    assert not any("NVML" in note or "NVIDIA" in note for note in host["notes"])


def test_two_gpus_are_named_in_order(fake_nvml: Environment) -> None:
    (host,) = probe(fake_nvml(gpus="A|24576|20480;B|8192|1"))
    assert [(gpu["name"], gpu["model_name"], gpu["free_bytes"]) for gpu in host["gpus"]] == [
        ("gpu0", "A", 20480 * MIB),
        ("gpu1", "B", MIB),
    ]
    assert [gpu["display_attached"] for gpu in host["gpus"]] == [True, False]


def test_free_memory_is_measured_at_every_call(fake_nvml: Environment) -> None:
    hosts = probe(fake_nvml(drop_mib="100"), times=3)
    free = [host["gpus"][0]["free_bytes"] for host in hosts]
    assert free == [20480 * MIB, 20380 * MIB, 20280 * MIB]


@pytest.mark.parametrize("failing", ["", "nvmlDeviceGetCount_v2=999", "nvmlDeviceGetName=3"])
def test_nvml_is_always_shut_down(fake_nvml: Environment, tmp_path: Path, failing: str) -> None:
    log = tmp_path / "calls"
    probe(fake_nvml(fail=failing, log=str(log)), times=2)
    calls = log.read_text().split()
    assert [call for call in calls if call in ("nvmlInitWithFlags", "nvmlShutdown")] == [
        "nvmlInitWithFlags",
        "nvmlShutdown",
    ] * 2
    assert calls[0] == "nvmlInitWithFlags"
    assert calls[-1] == "nvmlShutdown"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gpus": ""}, "reports no GPU"),
        ({"fail": f"nvmlInitWithFlags={DRIVER_NOT_LOADED}"}, "installed but not loaded"),
        ({"fail": f"nvmlInitWithFlags={NO_PERMISSION}"}, "insufficient permissions"),
        ({"fail": f"nvmlInitWithFlags={VERSION_MISMATCH}"}, "different versions"),
        ({"fail": f"nvmlInitWithFlags={FUNCTION_NOT_FOUND}"}, "too old"),
        ({"fail": f"nvmlInitWithFlags={UNKNOWN}"}, "could not be started"),
        ({"fail": f"nvmlDeviceGetCount_v2={UNKNOWN}"}, "started but then failed"),
    ],
)
def test_a_driver_that_fails_is_a_sentence(
    fake_nvml: Environment, settings: dict[str, str], said: str
) -> None:
    (host,) = probe(fake_nvml(**settings))
    assert host["gpus"] == []
    (note,) = [note for note in host["notes"] if said in note]
    assert note.endswith(".")


def test_a_missing_driver_is_a_sentence(fake_nvml: Environment, tmp_path: Path) -> None:
    # An unreadable library comes first on the loader's path, so that a real driver cannot answer.
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    (host,) = probe(fake_nvml(LD_LIBRARY_PATH=str(tmp_path)))
    assert host["gpus"] == []
    assert any("No NVIDIA driver was found" in note for note in host["notes"])


def test_missing_bindings_are_a_sentence(fake_nvml: Environment, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError('no such package')")
    environment = fake_nvml()
    environment["PYTHONPATH"] += f":{tmp_path}"
    (host,) = probe(environment)
    assert host["gpus"] == []
    assert any("pip install nvidia-ml-py" in note for note in host["notes"])


@pytest.mark.parametrize(
    ("function", "fields", "word"),
    [
        ("nvmlDeviceGetMemoryBusWidth", ["bus_width_bits", "bandwidth_gbps"], "bus width"),
        ("nvmlDeviceGetMaxClockInfo", ["memory_clock_mhz", "bandwidth_gbps"], "memory clock"),
        ("nvmlDeviceGetCudaComputeCapability", ["compute_capability"], "compute capability"),
        ("nvmlDeviceGetUUID", ["uuid"], "UUID"),
        ("nvmlSystemGetDriverVersion", ["driver"], "driver version"),
        ("nvmlDeviceGetPciInfo_v3", ["pci_address"], "PCI address"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", ["processes"], "processes"),
    ],
)
def test_one_unsupported_field_costs_only_that_field(
    fake_nvml: Environment, function: str, fields: list[str], word: str
) -> None:
    (whole,) = probe(fake_nvml())
    (host,) = probe(fake_nvml(fail=f"{function}={NOT_SUPPORTED}"))
    assert host["gpus"] == [whole["gpus"][0] | dict.fromkeys(fields)]
    assert (
        f"gpu0 (NVIDIA GeForce RTX 3090): NVML does not report {word} (Not Supported)."
        in (host["notes"])
    )


def test_unsupported_memory_is_unknown_never_zero(fake_nvml: Environment) -> None:
    failing = ",".join(
        f"{function}={NOT_SUPPORTED}"
        for function in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2")
    )
    (host,) = probe(fake_nvml(fail=failing))
    (gpu,) = host["gpus"]
    assert (gpu["free_bytes"], gpu["total_bytes"], gpu["used_bytes"]) == (None, None, None)
    assert any("does not report memory (Not Supported)" in note for note in host["notes"])


def test_an_old_driver_answers_the_first_memory_call(fake_nvml: Environment) -> None:
    (host,) = probe(fake_nvml(fail=f"nvmlDeviceGetMemoryInfo_v2={FUNCTION_NOT_FOUND}"))
    (gpu,) = host["gpus"]
    assert gpu["free_bytes"] == 20480 * MIB
    assert gpu["used_bytes"] == 4096 * MIB
    assert not any("does not report" in note for note in host["notes"])


def test_a_headless_driver_answers_the_second_display_call(fake_nvml: Environment) -> None:
    (host,) = probe(fake_nvml(fail=f"nvmlDeviceGetDisplayActive={NOT_SUPPORTED}"))
    assert host["gpus"][0]["display_attached"] is True


def test_a_lost_gpu_keeps_its_number_but_offers_nothing(fake_nvml: Environment) -> None:
    (host,) = probe(
        fake_nvml(
            gpus="A|1024|512;B|2048|1024",
            fail=f"nvmlDeviceGetHandleByIndex_v2@0={GPU_IS_LOST}",
        )
    )
    assert [(gpu["name"], gpu["free_bytes"]) for gpu in host["gpus"]] == [
        ("gpu0", None),
        ("gpu1", 1024 * MIB),
    ]
    assert any(note.startswith("gpu0") and "GPU is lost" in note for note in host["notes"])


def test_a_gpu_split_into_instances_offers_nothing(fake_nvml: Environment) -> None:
    (host,) = probe(fake_nvml(mig="1"))
    assert host["gpus"][0]["free_bytes"] is None
    assert host["gpus"][0]["total_bytes"] == 24576 * MIB
    assert any("MIG" in note for note in host["notes"])


@pytest.mark.parametrize(
    ("setting", "models"),
    [
        ("1,0", ["B", "A"]),
        ("1", ["B"]),
        ("GPU-0000abc1", ["B"]),
        ("GPU-0000abc1-0000-4000-8000-000000000001,0", ["B", "A"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["A"]),
    ],
)
def test_cuda_visible_devices_names_the_gpus(
    fake_nvml: Environment, setting: str, models: list[str]
) -> None:
    (host,) = probe(fake_nvml(gpus="A|1024|512;B|2048|1024", CUDA_VISIBLE_DEVICES=setting))
    assert [gpu["model_name"] for gpu in host["gpus"]] == models
    assert [gpu["name"] for gpu in host["gpus"]] == [f"gpu{n}" for n in range(len(models))]


@pytest.mark.parametrize(
    ("order", "gpus", "warned"),
    [
        (None, "A|1024|512;B|2048|1024", True),
        ("PCI_BUS_ID", "A|1024|512;B|2048|1024", False),
        (None, "A|1024|512;A|1024|512", False),
    ],
)
def test_numbers_of_different_gpus_are_said_to_be_ambiguous(
    fake_nvml: Environment, order: str | None, gpus: str, warned: bool
) -> None:
    cuda = {"CUDA_VISIBLE_DEVICES": "1"} | ({"CUDA_DEVICE_ORDER": order} if order else {})
    (host,) = probe(fake_nvml(gpus=gpus, **cuda))
    assert any("PCI order" in note for note in host["notes"]) is warned


@pytest.mark.parametrize(
    ("bits", "clock_mhz", "data_sheet_gbps"),
    # NVIDIA's data sheets: RTX 3090, RTX 2080 Ti, A100 40GB SXM, H100 SXM.
    [(384, 9751, 936), (352, 7000, 616), (5120, 1215, 1555), (5120, 2619, 3350)],
)
def test_peak_bandwidth_agrees_with_data_sheets(
    bits: int, clock_mhz: int, data_sheet_gbps: int
) -> None:
    assert peak_bandwidth_gbps(bits, clock_mhz) == pytest.approx(data_sheet_gbps, rel=0.002)


@pytest.mark.parametrize(("bits", "clock_mhz"), [(None, 9751), (384, None), (0, 9751), (384, 0)])
def test_peak_bandwidth_is_unknown_without_both_numbers(
    bits: int | None, clock_mhz: int | None
) -> None:
    assert peak_bandwidth_gbps(bits, clock_mhz) is None
