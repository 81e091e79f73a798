"""A bare `glm-plan` plans with the free memory that NVML reports, as it is at that moment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]
MIB = 1024**2


def plan(environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "--json"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize(
    ("free_mib", "blocks"),
    # By hand, ChatGLM-6B at fp16: (free - 2048 MiB) / 385 MiB, rounded down, at most 28.
    [(11264, 23), (2048, 0), (2433, 1), (23000, 28)],
)
def test_the_rule_is_applied_to_measured_memory(
    fake_nvml: Callable[..., dict[str, str]], free_mib: int, blocks: int
) -> None:
    document = plan(fake_nvml(gpus=f"NVIDIA A|24576|{free_mib}"))
    assert document["gpu_blocks"] == blocks
    (gpu,) = document["decision"]["gpus"]
    assert (gpu["free_bytes"], gpu["free_provenance"]) == (free_mib * MIB, "measured")


def test_unknown_memory_means_cpu(fake_nvml: Callable[..., dict[str, str]]) -> None:
    unsupported = "nvmlDeviceGetMemoryInfo=3,nvmlDeviceGetMemoryInfo_v2=3"
    document = plan(fake_nvml(fail=unsupported))
    assert document["gpu_blocks"] == 0
    assert any("does not report memory" in note for note in document["notes"])


def test_a_driver_that_fails_means_cpu_and_is_said(
    fake_nvml: Callable[..., dict[str, str]],
) -> None:
    document = plan(fake_nvml(fail="nvmlInitWithFlags=9"))
    assert document["gpu_blocks"] == 0
    assert any("installed but not loaded" in note for note in document["notes"])
