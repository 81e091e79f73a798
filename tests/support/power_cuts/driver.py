"""Cut the power at the Nth change of a scenario's files, again and again, and look what is left.

Runs under power_cut.c: python -m tests.support.power_cuts.driver CONTROL FOLDER SCENARIO REQUEST,
where REQUEST is JSON: "cuts" are numbers, or how many to spread over the scenario (null: all).
Prints one JSON object. The changes themselves are made in forks of this process.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.power_cuts.ordering import unsynced_at_publication
from tests.support.power_cuts.scenarios import SCENARIOS, Scenario

_LAYOUT = "qqqq512s512s"
SIZE = struct.calcsize(_LAYOUT)


class Control:
    """The struct that the library shares with this process."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    def arm(self, under: Path, at: int, *, torn: bool = False, trace: Path | None = None) -> None:
        named = os.fsencode(trace) if trace else b""
        fields = (1, at, 0, torn, os.fsencode(under), named)
        self._memory[:] = struct.pack(_LAYOUT, *fields)

    def disarm(self) -> int:
        """The changes so far."""
        count = struct.unpack(_LAYOUT, self._memory[:])[2]
        self._memory[:] = bytes(SIZE)
        return int(count)


def main(control: Control, folder: Path, scenario: Scenario, request: dict[str, Any]) -> Any:
    """Try every cut that `request` asks for."""
    before, after = folder / "before", folder / "after"
    before.mkdir()
    scenario.prepare(before)
    shutil.copytree(before, after)
    trace = folder / "trace"
    control.arm(after, 0, trace=trace)
    status = _in_fork(scenario, after)
    changes = control.disarm()
    assert status == 0, f"the scenario ended with {status} before any cut"
    old, new = _seen(scenario, before), _seen(scenario, after)
    assert old != new, "the scenario changes nothing"
    unsynced = unsynced_at_publication(trace.read_text().splitlines(), after, scenario.published)
    outcomes = {"old": 0, "new": 0}
    failures: list[str] = []
    for number, torn in _cuts(changes, request):
        work = folder / "work"
        shutil.copytree(before, work)
        control.arm(work, number, torn=torn)
        status = _in_fork(scenario, work)
        control.disarm()
        found = _seen(scenario, work)
        state = "old" if found == old else "new" if found == new else ""
        if state:
            outcomes[state] += 1
        else:
            failures.append(f"cut {number}{' torn' if torn else ''}: neither old nor new")
        if status == 0 and number < changes // 2:
            failures.append(f"cut {number} was not made")
        if request["again"] and _in_fork(scenario, work) != 0:
            failures.append(f"cut {number}: doing it again failed")
        elif request["again"] and _seen(scenario, work) != new:
            failures.append(f"cut {number}: doing it again did not give the new state")
        shutil.rmtree(work)
    return {"changes": changes, **outcomes, "failures": failures, "unsynced": unsynced}


def _seen(scenario: Scenario, folder: Path) -> Any:
    """What readers find: the scenario's own reading of it, or the fault that it raised."""
    with _no_output():
        try:
            return scenario.look(folder)
        except Exception as error:  # a reader that fails is a state of its own, neither of both
            return f"{type(error).__name__}: {error}"


def _cuts(changes: int, request: dict[str, Any]) -> Iterator[tuple[int, bool]]:
    wanted = request["cuts"]
    every = range(1, changes + 1)
    if wanted is not None and wanted < changes:
        # The last changes publish; the others are alike.
        last = list(every)[-wanted // 2 :]
        rest = list(every)[: -wanted // 2]
        every = sorted({*last, *random.Random(request["seed"]).sample(rest, wanted - len(last))})
    for number in every:
        yield number, number % 2 == 1


def _in_fork(scenario: Scenario, folder: Path) -> int:
    """Act in a fork with a process group of its own; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            with _no_output():
                scenario.act(folder)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@contextmanager
def _no_output() -> Iterator[None]:
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    told = main(
        Control(Path(sys.argv[1])),
        Path(sys.argv[2]),
        SCENARIOS[sys.argv[3]],
        json.loads(sys.argv[4]),
    )
    print(json.dumps(told))
