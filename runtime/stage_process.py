"""A stage's worker as its parent sees it: the process, what it answers, and how it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from runtime.allocator import huge_pages
from runtime.worker import Failed, Loaded, Ready, WorkerConfig, worker_main

_CONTEXT = multiprocessing.get_context("spawn")
_EXIT_SECONDS = 5.0


class Inbox:
    """The pipe that leads into a stage, whose both ends the parent keeps.

    So it outlives the stage's worker: what the stage before writes meanwhile waits here, and a new
    worker reads on. Messages are shorter than what a pipe takes at once, so that two processes may
    write, and none is ever cut.
    """

    def __init__(self) -> None:
        self.reader, self.writer = _CONTEXT.Pipe(duplex=False)

    def drain(self) -> None:
        """Throw away what waits, and what a dead reader has left of a message."""
        while self.reader.poll():
            if os.name == "nt":
                self.reader.recv_bytes()
            else:
                os.read(self.reader.fileno(), 1 << 16)

    def close(self) -> None:
        """Let go of both ends; a worker ends when its inbox has no writer left."""
        self.reader.close()
        self.writer.close()


class StageProcess:
    """A worker that has been started; `ready` once the pipeline knows that it serves."""

    def __init__(self, config: WorkerConfig, name: str, inbox: Inbox, after: Inbox | None) -> None:
        self.answers, theirs = _CONTEXT.Pipe(duplex=False)
        self.ready = False
        self.parts = 0  # loaded so far
        self._process = _CONTEXT.Process(
            target=worker_main,
            args=(config, theirs, inbox.reader, after.writer if after else None),
            name=name,
            daemon=True,
        )
        with huge_pages():
            self._process.start()
        theirs.close()

    @property
    def handles(self) -> tuple[Connection, int]:
        """What to wait for: an answer, and the end of the process."""
        return self.answers, self._process.sentinel

    @property
    def process_id(self) -> int | None:
        """The operating system's id."""
        return self._process.pid

    def loading_message(self) -> Loaded | Ready | Failed:
        """What it says while it loads; EOFError or OSError where it is gone."""
        message = self.answers.recv()
        assert isinstance(message, (Loaded, Ready, Failed))
        self.parts += isinstance(message, Loaded)
        self.ready = isinstance(message, Ready)
        return message

    def cause_of_death(self) -> str:
        """How a worker that is ending has ended; after a verb: ``died with signal SIGKILL``."""
        self._process.join(_EXIT_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "closed its pipe"
        if code < 0:
            return f"died with signal {signal.Signals(-code).name}"
        return f"died with exit code {code}"

    def kill(self) -> None:
        """End it now, whatever it does, and let go of its pipe."""
        self._process.kill()
        self._process.join(_EXIT_SECONDS)
        self.answers.close()

    def close(self) -> None:
        """Wait for the end of a worker whose inbox is closed; end it if that takes long."""
        self.answers.close()
        self._process.join(_EXIT_SECONDS)
        if self._process.is_alive():
            self.kill()
