"""Feed damaged input to everything that reads files, words or requests, and report what happened.

    python -m tests.bench.fuzz_readers [--inputs 200000] [--seed 0] [--only NAME ...] [--keep DIR]

Valid inputs are damaged (tests/support/fuzzing/mutate.py) and read in processes of their own, whose
address space may grow by 1 GiB. A reader may accept an input or refuse it by one sentence. Any
other exception, a call of more than a second of processor time, a change outside its folder, a
command, or a dead process is a failure; its input is kept in DIR.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.fuzzing.campaign import run_targets
from tests.support.fuzzing.targets import TARGETS

_AT_ONCE = 5000  # inputs of one process
_SECONDS = 900


def main() -> int:
    """Print a line per reader; the exit status tells whether all inputs were taken or refused."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--inputs", type=int, default=200_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    options.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    asked = options.parse_args()
    shares = sum(TARGETS[name].share for name in asked.only)
    print(
        f"{'reader':26}{'inputs':>8}{'accepted':>10}{'refused':>9}{'slowest':>10}{'failures':>10}{'s':>6}"
    )
    total = failed = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        for name in asked.only:
            started = time.monotonic()
            left = -(-asked.inputs * TARGETS[name].share // shares)
            accepted = refused = number = 0
            slowest = 0.0
            failures = []
            while left > 0:
                count = min(left, _AT_ONCE)
                folder = Path(scratch) / f"{name.replace(' ', '-')}-{number}"
                seed = asked.seed * 1000 + number
                told = run_targets({name: count}, seed, folder, _SECONDS)[name]
                accepted, refused = accepted + told.accepted, refused + told.refused
                slowest = max(slowest, told.slowest_seconds)
                failures += told.failures
                left, number = left - count, number + 1
                for one in told.failures:
                    asked.keep.mkdir(parents=True, exist_ok=True)
                    source = Path(str(one["input"]))
                    if source.exists():
                        shutil.copy(source, asked.keep / f"{folder.name}-{source.name}")
                shutil.rmtree(folder, ignore_errors=True)
            print(
                f"{name:26}{accepted + refused:8}{accepted:10}{refused:9}{slowest:9.2f}s"
                f"{len(failures):10}{time.monotonic() - started:6.0f}",
                flush=True,
            )
            for one in failures:
                print(f"    {one['fault']}")
            total, failed = total + accepted + refused, failed + len(failures)
    print(f"{total} inputs, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
