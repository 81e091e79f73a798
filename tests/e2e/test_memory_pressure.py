"""Another program takes the memory of a running server: slots go, nobody is killed, they return."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from scheduler.units import MIB
from tests.e2e.test_service_limits import LONG, Streaming
from tests.support.memory_group import MemoryGroup, memory_group
from tests.support.server import running_server

LIMIT = 1024 * MIB  # of which a fiftieth, 20 MiB, is to be kept free
LEFT = 14 * MIB
# Takes memory until so little is left, says so, and holds it until its input ends.
HOG = """
import sys
usage, most = sys.argv[1], int(sys.argv[2])
held = []
while int(open(usage).read()) < most:
    held.append(b"x" * (2 << 20))
print("full", flush=True)
sys.stdin.read()
"""


def fill(group: MemoryGroup) -> subprocess.Popen[str]:
    hog = subprocess.Popen(
        [*group.enter, sys.executable, "-c", HOG, str(group.usage_file), str(LIMIT - LEFT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert hog.stdout is not None
    assert hog.stdout.readline() == "full\n"
    return hog


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_slots_go_and_return_while_an_answer_runs_on() -> None:
    with memory_group(LIMIT) as group, running_server("--slots", "4", prefix=group.enter) as server:
        pids = [one.pid for one in psutil.Process(server.process.pid).children(recursive=True)]
        health = server.client.get("/health").json()
        assert health["pressure"] is None
        running = Streaming(server, **LONG | {"max_tokens": 1200})
        assert running.begun.wait(60)
        hog = fill(group)
        eventually(lambda: server.client.get("/health").json()["pressure"] is not None)
        eventually(lambda: server.metric("slots_usable") == 0)
        pressure = server.client.get("/health").json()["pressure"]
        assert pressure["slots"] == 4
        assert "of RAM are free" in pressure["reason"]
        # Whoever comes now waits, while what runs goes on.
        waiting = Streaming(server, max_tokens=3)
        server.wait_for("queue_waiting", 1)
        assert not any(line.startswith("data:") for line in waiting.lines)
        # Its end may free as much as a slot needs.
        running.join(60)
        assert running.lines[-2] == "data: [DONE]"
        hog.communicate()
        waiting.join(60)
        assert waiting.lines[-2] == "data: [DONE]"
        eventually(lambda: server.metric("slots_usable") == 4)
        assert server.client.get("/health").json()["pressure"] is None
        assert group.kills() == 0
        assert all(psutil.pid_exists(pid) for pid in pids)
        log = "".join(server.lines)
        assert "memory is short" in log
        assert "memory is back: 4 of 4 slots" in log


def test_a_server_that_shall_not_back_off_only_tells() -> None:
    with (
        memory_group(LIMIT) as group,
        running_server("--slots", "2", "--back-off", "off", prefix=group.enter) as server,
    ):
        hog = fill(group)
        eventually(lambda: server.client.get("/health").json()["pressure"] is not None)
        assert server.client.get("/health").json()["pressure"]["applied"] is False
        assert server.metric("slots_usable") == 2
        assert server.chat("What is the capital of France?").status_code == 200
        hog.communicate()
        assert group.kills() == 0
