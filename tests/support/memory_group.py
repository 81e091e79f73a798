"""A control group with a memory limit of its own, for programs that shall not have all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Puts itself into the group, then becomes the program.
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class MemoryGroup:
    """The group's folder; version 1 and 2 name their files differently."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._first = (folder / "memory.limit_in_bytes").exists()
        self._write("memory.limit_in_bytes" if self._first else "memory.max", limit_bytes)

    @property
    def enter(self) -> tuple[str, ...]:
        """Words in front of a command, so that it runs inside."""
        return ("sh", "-c", _ENTER, str(self.folder))

    @property
    def usage_file(self) -> Path:
        """Where the kernel says how much is used, pages of files included."""
        return self.folder / ("memory.usage_in_bytes" if self._first else "memory.current")

    def kills(self) -> int:
        """How often the kernel killed for want of memory."""
        file = self.folder / ("memory.oom_control" if self._first else "memory.events")
        lines = (line.split() for line in file.read_text().splitlines())
        return next((int(line[1]) for line in lines if line[0] == "oom_kill"), 0)

    def processes(self) -> list[int]:
        """Everybody inside."""
        return [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group below this process's own; skips the test where none can be made."""
    folder = _own_folder() / f"glm-plan-test-{os.getpid()}"
    try:
        folder.mkdir()
        group = MemoryGroup(folder, limit_bytes)
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        deadline = time.monotonic() + 30
        while group.processes() and time.monotonic() < deadline:
            for pid in group.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        folder.rmdir()


def _own_folder() -> Path:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {line[1]: line[2].lstrip("/") for line in lines}
    if "memory" in paths:
        return Path("/sys/fs/cgroup/memory") / paths["memory"]
    return Path("/sys/fs/cgroup") / paths.get("", "")
