"""Run readers over many damaged inputs in a process of their own, and say how that ended."""

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


def run_targets(
    counts: dict[str, int], seed: int, folder: Path, seconds: float
) -> dict[str, Outcome]:
    """Feed inputs; a process that dies or hangs is a failure of them all, with its input."""
    folder.mkdir(parents=True)
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.support.fuzzing.child"),
            *(json.dumps(counts), str(seed), str(folder)),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    fault = None
    try:
        printed, said = child.communicate(timeout=seconds)
        if child.returncode != 0:
            fault = f"ended with {child.returncode}: {said[-2000:]}"
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        fault = f"did not end within {seconds:g} s"
    if fault is not None:
        failures = [{"fault": fault, "input": str(folder / "input")}]
        return {name: Outcome(failures=failures) for name in counts}
    told = json.loads(printed.splitlines()[-1])
    return {name: Outcome(**one) for name, one in told.items()}
