"""Shared memory that carries hidden states and logits between processes."""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import numpy.typing as npt

FAMILY = f"glm-plan-{secrets.token_hex(6)}"
"""What the names of all shared memory begin with that this process creates."""

_numbers = itertools.count()
_WHERE_LINUX_KEEPS_IT = Path("/dev/shm")  # noqa: S108  # read, never written


class SharedArray:
    """A block of fp32 numbers that several processes see; whoever creates it also removes it."""

    def __init__(self, memory: SharedMemory, *, owner: bool) -> None:
        self._memory = memory
        self._owner = owner
        self._numbers: npt.NDArray[np.float32] = np.ndarray(
            memory.size // 4, np.float32, memory.buf
        )

    @classmethod
    def create(cls, numbers: int) -> SharedArray:
        """Room for this many fp32 numbers, under a new name of this process's family."""
        name = f"{FAMILY}-{next(_numbers)}"
        return cls(SharedMemory(name, create=True, size=4 * numbers), owner=True)

    @classmethod
    def attach(cls, name: str) -> SharedArray:
        """The array that another process created."""
        return cls(SharedMemory(name=name), owner=False)

    @property
    def name(self) -> str:
        """What `attach` needs."""
        return self._memory.name

    def view(self, *shape: int, start: int = 0) -> npt.NDArray[np.float32]:
        """The numbers from `start` on in this shape, writable for everyone who sees them."""
        return self._numbers[start : start + math.prod(shape)].reshape(shape)

    def close(self) -> None:
        """Let go of the memory; the owner removes it.

        Views made before must not be used afterwards.
        """
        del self._numbers
        self._memory.close()
        if self._owner:
            self._memory.unlink()


def remove_family(family: str) -> None:
    """Remove the shared memory that a process of this family left behind, after it is dead.

    Only Linux lists it. Elsewhere the standard library's tracker does this, once every process that
    the same parent started has ended.
    """
    for left in _WHERE_LINUX_KEEPS_IT.glob(f"{family}-*"):
        with contextlib.suppress(FileNotFoundError):
            memory = SharedMemory(left.name)
            memory.close()
            memory.unlink()
