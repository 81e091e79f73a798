"""What a fuzzed reader is: a function of one input, valid inputs, and a way to damage them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.fuzzing.mutate import Mutator

Read = Callable[[bytes], None]
Prepared = tuple[Read, list[bytes]]


@dataclass(frozen=True)
class Target:
    """`prepare` gets a folder of its own; `share` is its part of all inputs, by weight."""

    prepare: Callable[[Path], Prepared]
    mutate: Mutator
    share: int


def through(path: Path, read: Callable[[], object]) -> Read:
    """A reader of files as a function of their content."""

    def of_content(content: bytes) -> None:
        path.write_bytes(content)
        read()

    return of_content
