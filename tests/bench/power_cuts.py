"""Cut the power at every change that a writer makes, and count what is left.

    python -m tests.bench.power_cuts [SCENARIO ...]

Each writer (export, calibration, plans, profiles, reports) runs under a library that ends it and
its children before the Nth opening, write, fsync, rename, link, removal or new directory below the
scenario's folder, for every N; odd writes are left half done. Afterwards readers must find the old
state or the new one, and doing it again must give the new one. Needs Linux and a C compiler.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.support.power_cuts.run import build, cut
from tests.support.power_cuts.scenarios import SCENARIOS


def main(names: list[str]) -> int:
    """Print a line per scenario; the exit status tells whether every state was old or new."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="power-cuts-") as scratch:
        library = build(Path(scratch))
        if library is None:
            print("needs Linux and a C compiler (cc, gcc or clang)")
            return 2
        print("scenario                  cuts   old   new  neither  not on disk     s")
        for number, name in enumerate(names or SCENARIOS):
            started = time.monotonic()
            told = cut(library, Path(scratch) / str(number), name, None, again=True)
            seconds = time.monotonic() - started
            print(
                f"{name:24}{told.changes:6}{told.old:6}{told.new:6}{len(told.failures):9}"
                f"{len(told.unsynced):13}{seconds:6.0f}",
                flush=True,
            )
            for line in (*told.failures, *told.unsynced):
                print(f"    {line}")
            failed += len(told.failures) + len(told.unsynced)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
