"""A real `glm-plan serve` process on a free port, with the tiny model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.tiny import REPOSITORY

_START_SECONDS = 120


class Server:
    """The process, its address, and a client that knows it."""

    def __init__(self, process: subprocess.Popen[str], url: str, lines: list[str]) -> None:
        self.process = process
        self.url = url
        self.lines = lines
        self.client = httpx.Client(base_url=url, timeout=120)

    def chat(self, text: str, **fields: object) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def metric(self, name: str) -> float:
        """The sum of all series of a metric."""
        lines = self.client.get("/metrics").text.splitlines()
        pattern = re.compile(rf"glm_plan_{name}(\{{.*\}})? (\S+)")
        return sum(float(found[2]) for line in lines if (found := pattern.fullmatch(line)))

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has this value."""
        deadline = time.monotonic() + 60
        while (now := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {now}, expected {value}"
            time.sleep(0.02)


@contextmanager
def running_server(
    *arguments: str,
    environment: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    one_core: bool = False,
) -> Iterator[Server]:
    """Start a server and wait until it is ready; with `one_core`, stages have one thread each."""
    cores = os.sched_getaffinity(0)
    if one_core:
        os.sched_setaffinity(0, {max(cores)})  # children inherit it
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "runtime.cli", "serve", "--port", "0", *arguments],
        cwd=REPOSITORY,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(0, cores)
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if " is ready at " in line:
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        assert ready.wait(_START_SECONDS), lines
        found = re.search(r"is ready at ([^\s\"]+)", "".join(lines))
        assert found, lines
        server = Server(process, found[1], lines)
        yield server
        server.client.close()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
