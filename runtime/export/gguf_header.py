"""The header of a GGUF file, read with bounds: metadata and where every tensor lies."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import CheckpointError

# Elements and bytes of one block of each tensor type that can be dequantised, by its number in
# the GGUF specification (ggml's `ggml_type`).
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
# Types that the specification names and this reader does not dequantise.
_REFUSED = (
    "Q8_1 Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M"
    " TQ1_0 TQ2_0 MXFP4 NVFP4"
)
REFUSED_TYPES = dict(zip((9, 15, *range(16, 30), 34, 35, 39, 40), _REFUSED.split(), strict=True))
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
MAX_KEY_BYTES = 65_535  # the specification's bound
MAX_HEADER_BYTES = 256 << 20  # vocabularies of 256k tokens with merges take about 16 MiB
MAX_TENSORS = 65_536
MAX_KEYS = 65_536
MAX_DIMENSIONS = 4
MAX_ARRAY_ITEMS = 2 << 20  # a list of Python objects: bounds memory as well as time

Value = int | float | bool | str | list["Value"]
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `shape` as GGUF writes it (fastest axis first), `start` in bytes of ``file``."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int
    file: Path


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself: metadata by key, tensors by name.

    Lists of metadata (the vocabulary's tokens, merges, scores and types) are Python lists.
    """

    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]


class _Reader:
    """A position in the mapped file; nothing beyond ``limit`` is touched."""

    def __init__(self, content: mmap.mmap | bytes, path: Path) -> None:
        self.content, self.path = content, path
        self.size_bytes = len(content)
        self.limit = min(self.size_bytes, MAX_HEADER_BYTES)
        self.position = 0
        self.items_left = MAX_ARRAY_ITEMS  # of all lists together

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is not a usable GGUF file: {what}; download or convert it again."
        )

    def take(self, count: int) -> bytes:
        start, end = self.position, self.position + count
        if end > self.limit:
            raise self.fail(f"its header asks for {count:,} bytes beyond what the file holds")
        self.position = end
        return self.content[start:end]

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0])

    def text(self, most: int = MAX_HEADER_BYTES) -> str:
        (length,) = _LENGTH.unpack(self.take(8))
        if length > most:
            raise self.fail(f"a name of {length:,} bytes, at most {most:,} are allowed")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"the text at byte {self.position - length:,} is not UTF-8") from error

    def texts(self, count: int) -> list[Value]:
        """Many texts, as `text` reads one: vocabularies have hundreds of thousands."""
        content, limit, unpack = self.content, self.limit, _LENGTH.unpack_from
        found: list[Value] = []
        position = self.position
        for _ in range(count):
            start = position + 8
            if start > limit or (end := start + unpack(content, position)[0]) > limit:
                raise self.fail(f"a list of {count:,} texts goes beyond what the file holds")
            try:
                found.append(content[start:end].decode())
            except UnicodeDecodeError as error:
                raise self.fail(f"the text at byte {start:,} is not UTF-8") from error
            position = end
        self.position = position
        return found

    def count(self, what: str, most: int) -> int:
        found = self.number("Q")
        if found > most:
            raise self.fail(f"it declares {found:,} {what}, at most {most:,} are allowed")
        return found

    def value(self, kind: int) -> Value:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item, length = self.number("I"), self.count("items in lists", self.items_left)
            self.items_left -= length
            if item == STRING:
                return self.texts(length)
            return list(self.scalars(item, length))
        return self.scalars(kind, 1)[0]

    def scalars(self, kind: int, length: int) -> tuple[Value, ...]:
        if kind not in SCALARS:
            raise self.fail(f"it holds a value of unknown type {kind}")
        layout = f"<{length}{SCALARS[kind]}"
        return struct.unpack(layout, self.take(struct.calcsize(layout)))


def read_gguf_header(path: Path) -> GgufHeader:
    """Metadata and tensor table of a GGUF file (versions 2 and 3, little-endian).

    Reads at most 256 MiB and no tensor data, so hostile counts cost neither time nor memory.
    Every tensor is proved to lie inside the file, and no two to overlap. Layout: the GGUF
    specification of ggml. Raises CheckpointError for a file that is missing, truncated, hostile or
    of unknown types.
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:  # cannot be mapped
                raise _Reader(b"", path).fail("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read(_Reader(content, path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def _read(reader: _Reader) -> GgufHeader:
    if reader.take(4) != b"GGUF":
        raise reader.fail("it does not begin with the letters GGUF")
    version = reader.number("I")
    if version not in {2, 3}:
        raise reader.fail(f"version {version} is unknown, 2 and 3 are read")
    tensor_count = reader.count("tensors", MAX_TENSORS)
    metadata: dict[str, Value] = {}
    for _ in range(reader.count("metadata keys", MAX_KEYS)):
        key = reader.text(MAX_KEY_BYTES)
        if key in metadata:
            raise reader.fail(f"the key {key[:80]!r} occurs twice")
        metadata[key] = reader.value(reader.number("I"))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 65_536 or alignment % 8:
        raise reader.fail("general.alignment is not a multiple of 8 up to 65,536")
    tensors = [_tensor(reader) for _ in range(tensor_count)]
    data_start = -(-reader.position // alignment) * alignment
    return GgufHeader(metadata, _placed(reader, tensors, data_start, alignment))


def _placed(
    reader: _Reader, tensors: list[GgufTensor], data_start: int, alignment: int
) -> dict[str, GgufTensor]:
    """The tensors by name, with ``start`` counted from the file's beginning."""
    placed: dict[str, GgufTensor] = {}
    for one in tensors:
        start = data_start + one.start
        if one.start % alignment or start + one.size_bytes > reader.size_bytes:
            raise reader.fail(f"the tensor {one.name[:80]!r} is misaligned or ends beyond the file")
        if one.name in placed:
            raise reader.fail(f"the tensor {one.name[:80]!r} occurs twice")
        placed[one.name] = GgufTensor(
            one.name, one.type_name, one.shape, start, one.size_bytes, reader.path
        )
    end = data_start
    for one in sorted(placed.values(), key=lambda one: one.start):
        if one.start < end:
            raise reader.fail(f"the tensor {one.name[:80]!r} overlaps another")
        end = one.start + one.size_bytes
    return placed


def _tensor(reader: _Reader) -> GgufTensor:
    name = reader.text(MAX_KEY_BYTES)
    rank = reader.number("I")
    if not 1 <= rank <= MAX_DIMENSIONS:
        raise reader.fail(f"the tensor {name[:80]!r} has {rank} dimensions, 1 to 4 are allowed")
    shape = tuple(reader.number("Q") for _ in range(rank))
    kind = reader.number("I")
    if kind in REFUSED_TYPES:
        raise CheckpointError(
            f"{reader.path} stores the tensor {name[:80]!r} as {REFUSED_TYPES[kind]}; types that"
            f" are read: {', '.join(sorted(one for one, _, _ in TENSOR_TYPES.values()))}."
        )
    if kind not in TENSOR_TYPES:
        raise reader.fail(f"the tensor {name[:80]!r} has the unknown type {kind}")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    if 0 in shape or shape[0] % block:
        raise reader.fail(
            f"the tensor {name[:80]!r} is empty, or its rows are not whole {type_name} blocks"
        )
    size_bytes = math.prod(shape) // block * block_bytes
    return GgufTensor(name, type_name, shape, reader.number("Q"), size_bytes, reader.path)
