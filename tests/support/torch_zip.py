"""Write PyTorch's zip checkpoints without PyTorch: pickle instructions by hand, storages beside."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int8": "CharStorage",
    "int64": "LongStorage",
}


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(name: str, arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE; ``name`` is "module attribute"."""
    module, _, attribute = name.partition(" ")
    return b"c" + f"{module}\n{attribute}\n".encode() + arguments + b"R"


def tensor(key: str, dtype: str, size: int, shape: tuple, stride: tuple, offset: int = 0) -> bytes:
    """What `torch.save` writes for one tensor."""
    kind = f"ctorch\n{STORAGES[dtype]}\n".encode()
    storage = tuple_of(text("storage"), kind, text(key), text("cpu"), number(size)) + b"Q"
    return call(
        "torch._utils _rebuild_tensor_v2",
        tuple_of(
            storage,
            number(offset),
            tuple_of(*map(number, shape)),
            tuple_of(*map(number, stride)),
            b"\x89",
            call("collections OrderedDict", b")"),
        ),
    )


def dictionary(items: dict[str, bytes]) -> bytes:
    """A whole pickle: an OrderedDict of already pickled values."""
    body = b"".join(text(name) + value for name, value in items.items())
    return b"\x80\x02" + call("collections OrderedDict", b")") + b"(" + body + b"u."


def contiguous(shape: tuple) -> tuple:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides[: len(shape)])


def write_zip(path: Path, pickle: bytes, storages: dict[str, bytes], **extra: bytes) -> None:
    """The archive around a pickle; ``extra`` adds members such as byteorder."""
    root = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", pickle)
        for name, content in extra.items():
            archive.writestr(f"{root}/{name}", content)
        for key, content in storages.items():
            archive.writestr(f"{root}/data/{key}", content)
        archive.writestr(f"{root}/version", b"3\n")


def save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The archive of a dictionary of tensors, a storage for each."""
    items, storages = {}, {}
    for index, (name, array) in enumerate(tensors.items()):
        key = str(index)
        items[name] = tensor(
            key, array.dtype.name, array.size, array.shape, contiguous(array.shape)
        )
        storages[key] = np.ascontiguousarray(array).tobytes()
    write_zip(path, dictionary(items), storages, byteorder=b"little")
