"""The process that feeds damaged inputs to readers, and watches what they do.

python -m tests.support.fuzzing.child COUNTS SEED FOLDER, where COUNTS is JSON: how many inputs for
each target. Prints one JSON object. An input is in FOLDER/input while it is read, for whoever finds
the process dead.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

import psutil

from scheduler.errors import GlmPlanError

MORE_BYTES = 1 << 30
MOST_SECONDS = 1.0
_HANG_SECONDS = 30
_MOST_FAILURES = 20
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "shutil.rmtree", "shutil.copyfile", "shutil.move"),
}
_COMMANDS = {"os.system", "os.exec", "os.posix_spawn", "os.startfile", "socket.connect"}


class Watch:
    """Which files are written outside of a folder, and which commands run, by audit events."""

    def __init__(self, folder: Path) -> None:
        self._inside = (os.path.realpath(folder), "/dev/null", "/dev/shm", "/proc")
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (flags or 0) & _WRITE_FLAGS or any(one in (mode or "") for one in "wax+")
            if writes and isinstance(path, str | bytes):
                self._note(event, path)
        elif event in _CHANGES:
            for path in arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._note(event, os.fspath(path))
        elif event in _COMMANDS and not (event == "socket.connect" and _is_local(arguments)):
            self.seen.append(f"{event} {arguments!r}"[:300])

    def _note(self, event: str, path: str | bytes) -> None:
        where = os.path.realpath(os.fsdecode(path))
        if not where.startswith(self._inside):
            self.seen.append(f"{event} {where}")


def _is_local(arguments: tuple[Any, ...]) -> bool:
    return isinstance(arguments[1], str | bytes)  # a socket of this machine, of multiprocessing


def main(counts: dict[str, int], seed: int, folder: Path) -> dict[str, Any]:
    """Read so many damaged inputs of each target; the same seed gives the same inputs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    watch = Watch(folder)
    return {
        name: feed(name, seed, count, folder / name.replace(" ", "-"), watch)
        for name, count in counts.items()
    }


def feed(name: str, seed: int, count: int, folder: Path, watch: Watch) -> dict[str, Any]:
    """Read `count` damaged inputs of one target, and tell what became of them."""
    from tests.support.fuzzing.targets import TARGETS

    target = TARGETS[name]
    work = folder / "work"
    work.mkdir(parents=True)
    for kind in ("CONFIG", "DATA", "CACHE"):
        os.environ[f"GLM_PLAN_{kind}_DIR"] = str(work / kind.lower())
    os.chdir(work)
    read, seeds = target.prepare(work)
    accepted = 0
    for one in seeds:  # which also loads what is loaded late
        with contextlib.suppress(GlmPlanError):
            read(one)
            accepted += 1
    assert accepted, f"no valid input of {name} is accepted"
    most = psutil.Process().memory_info().vms + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    random = Random(f"{name} {seed}")
    tally: dict[str, Any] = {"accepted": 0, "refused": 0, "slowest_seconds": 0.0, "failures": []}
    for _ in range(count):
        content = target.mutate(random, seeds)
        (folder.parent / "input").write_bytes(content)
        fault, seconds = _one(read, content, watch, tally)
        tally["slowest_seconds"] = max(tally["slowest_seconds"], seconds)
        if fault is not None and len(tally["failures"]) < _MOST_FAILURES:
            kept = folder / f"failure-{len(tally['failures'])}"
            kept.write_bytes(content)
            tally["failures"].append({"fault": fault, "input": str(kept)})
    return tally


def _one(
    read: Any, content: bytes, watch: Watch, tally: dict[str, Any]
) -> tuple[str | None, float]:
    fault = None
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    started = time.process_time()
    watch.on = True
    try:
        read(content)
        tally["accepted"] += 1
    except GlmPlanError as error:
        tally["refused"] += 1
        sentence = str(error)
        if not sentence.rstrip().endswith((".", "?")) or len(sentence) > 3000:
            fault = f"no short sentence: {sentence[:200]!r}... {len(sentence)} characters"
    except BaseException:
        fault = traceback.format_exc()[-1500:]
    finally:
        watch.on = False
        seconds = time.process_time() - started
        faulthandler.cancel_dump_traceback_later()
    if watch.seen:
        fault = f"changed what it must not: {watch.seen}"
        watch.seen.clear()
    if fault is None and seconds > MOST_SECONDS:
        fault = f"took {seconds:.2f} s"
    return fault, seconds


if __name__ == "__main__":
    result = main(json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # workers and templates' processes end with their pipes
