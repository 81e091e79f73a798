"""Commands to a contender and its answers: lines of JSON over stdin and stdout.

Used on both sides, and by Pythons that hold nothing of glm-plan: the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Handler = Callable[..., list[float]]


def serve(load: Callable[[], tuple[str, dict[str, Handler]]]) -> None:
    """Load, say what was loaded, then answer commands until stdin ends.

    `load` returns a description and a handler by name of command; a handler takes the command's
    other fields and returns seconds. What engines print to stdout goes to stderr.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    started = time.perf_counter()
    about, handlers = load()
    print(json.dumps({"about": about, "load_seconds": time.perf_counter() - started}), file=out)
    for line in sys.stdin:
        command = json.loads(line)
        handler = handlers.get(command.pop("do"))
        print(json.dumps({"seconds": handler(**command) if handler else None}), file=out)


class Contender:
    """A child process that serves; `about` is what it said of itself."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready = self._read()
        self.about: str = ready["about"]
        self.load_seconds: float = ready["load_seconds"]

    def ask(self, do: str, **fields: int) -> list[float] | None:
        """Seconds of what was asked; None where this contender does not offer it."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **fields}), file=self._process.stdin, flush=True)
        seconds: list[float] | None = self._read()["seconds"]
        return seconds

    def close(self) -> None:
        """Let the child end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
