"""Build the library that cuts the power, and run scenarios under it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.tiny import REPOSITORY

_SOURCE = Path(__file__).with_name("power_cut.c")
_CONTROL_BYTES = 4096


@dataclass(frozen=True)
class Cuts:
    """How many changes a scenario makes, and how many cuts left the old and the new state.

    `unsynced` are files that were published before they were on the disk.
    """

    changes: int
    old: int
    new: int
    failures: list[str]
    unsynced: list[str]


def build(folder: Path) -> Path | None:
    """The library, or None without Linux and a C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not sys.platform.startswith("linux") or compiler is None:
        return None
    library = folder / "power_cut.so"
    words = [compiler, "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", library, _SOURCE]
    subprocess.run([*words, "-ldl"], check=True, capture_output=True)
    return library


def cut(
    library: Path, folder: Path, scenario: str, cuts: int | None, *, seed: int = 0, again: bool
) -> Cuts:
    """Cut a scenario at `cuts` of its changes, None for all; `again` repeats it to its end."""
    folder.mkdir(parents=True)
    control = folder / "control"
    control.write_bytes(bytes(_CONTROL_BYTES))
    request = json.dumps({"cuts": cuts, "seed": seed, "again": again})
    names = {"LD_PRELOAD": str(library), "POWER_CUT": str(control), "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.power_cuts.driver"),
            *(str(control), str(folder), scenario, request),
        ],
        cwd=REPOSITORY,
        env=os.environ | names,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return Cuts(**json.loads(child.stdout.splitlines()[-1]))
