"""The processes of a running server, and clients that compare an answer with an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.server import Server

_PIECE = re.compile(r"/dev/shm/(glm-plan-[0-9a-f]+-[0-9]+)")


def engine_of(server: Server) -> psutil.Process | None:
    """The engine's process, once it has started."""
    return next(iter(_spawned(psutil.Process(server.process.pid))), None)


def workers_of(server: Server) -> list[psutil.Process]:
    """The stages' processes that there are now."""
    engine = engine_of(server)
    return [] if engine is None else _spawned(engine)


def family(server: Server) -> list[psutil.Process]:
    """The server and everything below it."""
    root = psutil.Process(server.process.pid)
    return [root, *root.children(recursive=True)]


def shared_memory_of(server: Server) -> set[Path]:
    """The shared memory that the server's engine and workers have open."""
    found: set[Path] = set()
    for process in family(server):
        with contextlib.suppress(OSError, psutil.Error):
            maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
            found |= {Path(f"/dev/shm/{name}") for name in _PIECE.findall(maps)}
    return found


def _spawned(parent: psutil.Process) -> list[psutil.Process]:
    try:
        children = parent.children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _is_spawned(child)]


def _is_spawned(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@dataclass
class Told:
    """What a client was told: pieces, log probabilities, and how it ended."""

    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    completion_tokens: int = 0
    faults: list[str] = field(default_factory=list)
    done: bool = False

    def hear(self, line: str) -> None:
        """Take a line of the event stream."""
        if line == "data: [DONE]":
            self.done = True
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                self.faults.append(event["error"]["message"])
                return
            if event.get("usage"):
                self.completion_tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                self.text += choice["delta"].get("content") or ""
                self.logprobs += (choice.get("logprobs") or {}).get("content", ())
                self.finish_reason = choice["finish_reason"] or self.finish_reason


class Client(threading.Thread):
    """Reads one stream to its end; `begun` is set with the third line that says something.

    `on_line` is called for every such line.
    """

    def __init__(
        self, server: Server, body: dict[str, Any], on_line: Callable[[], None] | None = None
    ) -> None:
        super().__init__(daemon=True)
        self._on_line = on_line
        self.told = Told()
        self.begun = threading.Event()
        self._url = f"{server.url}/v1/chat/completions"
        self._body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        self.start()

    def run(self) -> None:
        lines = 0
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=120) as response:
                if response.status_code != 200:
                    self.told.faults.append(f"{response.status_code} {response.read()!r}")
                for line in response.iter_lines():
                    lines += bool(line)
                    if lines == 3:
                        self.begun.set()
                    self.told.hear(line)
                    if line and self._on_line is not None:
                        self._on_line()
        except httpx.HTTPError as error:
            self.told.faults.append(repr(error))
        self.begun.set()

    def result(self) -> Told:
        """What it was told, once it was told everything."""
        self.join(120)
        assert not self.is_alive(), "a stream hangs"
        return self.told


def asked(text: str, **fields: Any) -> dict[str, Any]:
    """A greedy question, unless the fields say otherwise."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
