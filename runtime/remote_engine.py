"""An engine's process as its service sees it, from its start to its end."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from multiprocessing.connection import wait

import psutil

from runtime.engine_messages import (
    Born,
    Broken,
    Close,
    EngineConfig,
    FromEngine,
    Ping,
    Pong,
    ToEngine,
)
from runtime.engine_process import engine_main
from runtime.shared_array import remove_family
from scheduler.errors import EngineError

TICK_SECONDS = 1.0
HANG_TICKS = 15
_GONE_SECONDS = 5.0
_POLL_SECONDS = 0.02


class DeadEngineError(EngineError):
    """The process is gone, or cannot go on; `broken` is what it said of that itself."""

    def __init__(self, reason: str, broken: Broken | None = None) -> None:
        if broken is None:
            super().__init__(reason)
        else:
            super().__init__(reason, device=broken.device, blocks=broken.blocks, cause=broken.cause)
        self.fewer_blocks = broken is not None and broken.fewer_blocks


class RemoteEngine:
    """Starts the process, which loads at once. `receive` is for one thread, all else for any.

    An engine that leaves `hang_ticks` questions in a row unanswered, one a second, counts as dead.
    Questions are counted, not seconds, so that a computer that slept has lost nothing.
    """

    def __init__(self, config: EngineConfig, hang_ticks: int = HANG_TICKS) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=engine_main, args=(config, theirs), name="glm-plan engine"
        )
        # Before the interpreter waits for its children, which it would for ever.
        atexit.register(self.kill)
        self.process.start()
        theirs.close()
        self._hang_ticks = hang_ticks
        self._unanswered = 0
        self._next_tick = 0.0  # 0: not before it is loaded
        self._memory_family: str | None = None
        self._ending = threading.Lock()
        self._ended = False
        # A pipe to a process that hangs fills up, and nobody may wait for it.
        self._outbox: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True, name="glm-plan asking")
        self._writer.start()

    def tell(self, message: ToEngine) -> None:
        """Send something, without waiting for it to be heard."""
        self._outbox.put(message)

    def watch(self) -> None:
        """From now on the engine must answer; before, while it loads, it may take its time."""
        self._next_tick = time.monotonic() + TICK_SECONDS

    def receive(self) -> list[FromEngine]:
        """What the engine says, within a second; DeadEngineError when it is gone or hangs."""
        timeout = TICK_SECONDS
        if self._next_tick:
            timeout = max(0.0, min(timeout, self._next_tick - time.monotonic()))
        messages: list[FromEngine] = []
        try:
            wait([self._pipe, self.process.sentinel], timeout)
            while self._pipe.poll():
                messages.append(self._pipe.recv())
        except (EOFError, OSError):
            if not messages:
                raise self._death() from None
        for message in messages:
            if isinstance(message, Born):
                self._memory_family = message.memory_family
            elif isinstance(message, Pong):
                self._unanswered = 0
            elif isinstance(message, Broken):
                raise DeadEngineError(message.reason, message)
        if not messages and not self.process.is_alive():
            raise self._death()
        self._tick()
        return messages

    def _tick(self) -> None:
        now = time.monotonic()
        if not self._next_tick or now < self._next_tick:
            return
        self._next_tick = now + TICK_SECONDS
        if self._unanswered >= self._hang_ticks:
            raise DeadEngineError(
                f"the engine's process did not answer for {self._unanswered * TICK_SECONDS:.0f} s."
            )
        self._unanswered += 1
        self.tell(Ping())

    def _death(self) -> DeadEngineError:
        self.process.join(_GONE_SECONDS)
        code = self.process.exitcode
        cause = f"exit code {code}"
        if code is not None and code < 0:
            cause = f"signal {signal.Signals(-code).name}"
        return DeadEngineError(f"the engine's process died with {cause}.")

    def close(self, grace_seconds: float) -> None:
        """Ask it to end, and end it when it does not."""
        if not self._ended:
            self.tell(Close())
            self.process.join(grace_seconds)
        self.kill()

    def kill(self) -> None:
        """End it and its workers now, and remove what they leave; safe to call twice.

        Returns when their memory is free again.
        """
        with self._ending:
            if self._ended:
                return
            self._ended = True
            pid = self.process.pid
            if pid is not None:
                _kill_group(pid)
                self.process.kill()
                self.process.join()
                _await_group(pid)
            self._outbox.put(None)
            self._writer.join()
            with contextlib.suppress(EOFError, OSError):
                while self._memory_family is None and self._pipe.poll():
                    message = self._pipe.recv()
                    if isinstance(message, Born):
                        self._memory_family = message.memory_family
            self._pipe.close()
            if self._memory_family is not None:
                remove_family(self._memory_family)
            atexit.unregister(self.kill)

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)


def _kill_group(group: int) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _await_group(group: int) -> None:
    """Wait until nobody of a killed group is left, so that two engines never fill the memory."""
    if not hasattr(os, "killpg"):
        return
    until = time.monotonic() + _GONE_SECONDS
    while _alive(group) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    # Its orphans are ours where this is the first process of a container.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def _alive(group: int) -> bool:
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
    return False
