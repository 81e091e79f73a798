"""Run one reader over many damaged inputs in a process of its own, and say how that ended."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tiny import REPOSITORY


@dataclass
class Outcome:
    """Of one reader: how many inputs it took and refused, its slowest call, what went wrong."""

    accepted: int = 0
    refused: int = 0
    slowest_seconds: float = 0.0
    failures: list[dict[str, object]] = field(default_factory=list)


def run_target(name: str, seed: int, count: int, folder: Path, seconds: float) -> Outcome:
    """Feed `count` inputs; a process that dies or hangs is a failure with its input."""
    words = [sys.executable, "-m", "tests.support.fuzzing.child", name, str(seed), str(count)]
    child = subprocess.Popen(
        [*words, str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        printed, said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        fault = f"did not end within {seconds:g} s"
        return Outcome(failures=[{"fault": fault, "input": str(folder / "input")}])
    if child.returncode != 0:
        fault = f"ended with {child.returncode}: {said[-2000:]}"
        return Outcome(failures=[{"fault": fault, "input": str(folder / "input")}])
    return Outcome(**json.loads(printed.splitlines()[-1]))
