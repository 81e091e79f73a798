"""Locks between real processes: held, freed by a kill, and never split by a removed file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.file_lock import LockedError, hold_lock

_HOLDER = """
import sys, time
from pathlib import Path
from scheduler.file_lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
_COUNTER = """
import sys
from pathlib import Path
from scheduler.file_lock import LockedError, hold_lock
lock, tally = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 200:
    try:
        with hold_lock(lock):
            tally.write_text(str(int(tally.read_text()) + 1))
            done += 1
    except LockedError:
        pass
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_one_process_holds_it_and_a_kill_frees_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    child = holder(lock)
    with pytest.raises(LockedError), hold_lock(lock):
        pass
    child.kill()
    child.wait()
    assert lock.exists()  # what is left of it holds nobody up
    with hold_lock(lock), pytest.raises(LockedError), hold_lock(lock):
        pass
    assert not lock.exists()


def test_many_turns_of_several_processes_lose_no_count(tmp_path: Path) -> None:
    lock, tally = tmp_path / "lock", tmp_path / "tally"
    tally.write_text("0")
    words = [sys.executable, "-c", _COUNTER, lock, tally]
    children = [subprocess.Popen(words) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert tally.read_text() == "600"


def test_a_place_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), hold_lock(tmp_path / "missing" / "lock"):
        pass
