"""Tables of a FlatBuffers file, read by field number: what MNN's files are made of.

Layout: the FlatBuffers "internals" page. Only reading, and of no more than is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

Buffer = bytes | bytearray


@dataclass(frozen=True)
class Table:
    """A table at ``position`` of ``content``. Methods raise ValueError outside the file."""

    content: Buffer
    position: int

    @staticmethod
    def root(content: Buffer) -> Table:
        """The table that a file begins with."""
        return Table(content, _unpack("I", content, 0))

    def number(self, field: int, code: str, default: int = 0) -> int:
        """A scalar by its `struct` code; ``default`` where it is not stored."""
        place = self._place(field)
        return default if place is None else _unpack(code, self.content, place)

    def table(self, field: int) -> Table | None:
        """The table that a field refers to."""
        place = self._place(field)
        return None if place is None else Table(self.content, _target(self.content, place))

    def vector(self, field: int) -> tuple[int, int]:
        """Where a vector's (or text's) items begin, and how many they are; none where absent."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = _target(self.content, place)
        return start + 4, _unpack("I", self.content, start)

    def numbers(self, field: int, code: str) -> list[int]:
        """A vector of scalars by their `struct` code."""
        start, count = self.vector(field)
        size = struct.calcsize(code)
        if start + count * size > len(self.content):
            raise ValueError("a list goes beyond the file")
        return [_unpack(code, self.content, start + size * index) for index in range(count)]

    def text(self, field: int) -> str:
        """A text, empty where absent."""
        start, count = self.vector(field)
        return bytes(self.content[start : start + count]).decode("utf-8", "replace")

    def tables(self, field: int) -> Iterator[Table]:
        """The tables of a vector."""
        start, count = self.vector(field)
        for index in range(count):
            yield Table(self.content, _target(self.content, start + 4 * index))

    def _place(self, field: int) -> int | None:
        vtable = self.position - _unpack("i", self.content, self.position)
        entry = 4 + 2 * field
        if entry + 2 > _unpack("H", self.content, vtable):
            return None
        offset = _unpack("H", self.content, vtable + entry)
        return self.position + offset if offset else None


def _target(content: Buffer, place: int) -> int:
    return place + _unpack("I", content, place)


def _unpack(code: str, content: Buffer, place: int) -> int:
    if not 0 <= place <= len(content) - struct.calcsize(code):
        raise ValueError(f"an offset leads to byte {place}, outside the file")
    return int(struct.unpack_from("<" + code, content, place)[0])
