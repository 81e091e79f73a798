"""A parent that is killed leaves neither workers nor shared memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.tiny import REPOSITORY

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")

PARENT = """
import json, sys, time
from runtime.bundle import open_bundle
from runtime.sampling import Sampling
from tests.support.engines import start_engine
from tests.support.tiny import TINY_BUNDLE

if __name__ == "__main__":
    engine = start_engine(open_bundle(TINY_BUNDLE), slots=2, first_blocks=3, context=2048)
    stream = engine.submit([20, 21], Sampling(temperature=50.0), 2000, ignore_end=True)
    next(stream)
    print(json.dumps(engine.pipeline.process_ids), flush=True)
    time.sleep(600)
"""


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def shared_memory_of(pid: int) -> set[str]:
    """Files under /dev/shm that this process maps."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {line.split()[-1] for line in maps.splitlines() if "/dev/shm/" in line}


@pytest.mark.parametrize("hung", [False, True])
def test_a_killed_parent_leaves_nothing(hung: bool, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    assert parent.stdout is not None
    workers = json.loads(parent.stdout.readline())
    files = shared_memory_of(parent.pid)
    assert len(files) >= 4
    assert all(Path(file).exists() for file in files)
    if hung:
        os.kill(workers[0], signal.SIGSTOP)
    parent.kill()
    parent.wait()
    if hung:  # the one behind it ends by itself; only a process that runs can do so
        wait_until(lambda: not psutil.pid_exists(workers[1]))
        os.kill(workers[0], signal.SIGKILL)
    wait_until(lambda: not any(map(psutil.pid_exists, workers)))
    wait_until(lambda: not any(Path(file).exists() for file in files))
