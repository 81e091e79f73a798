"""GGUF headers: a file written by hand from the specification, and hostile ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from runtime.export.gguf_header import read_gguf_header
from scheduler.errors import CheckpointError


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(tensor_type: int = 3, shape: tuple[int, ...] = (64, 2), data_bytes: int = 80) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 3)
    header += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    header += text("llama.block_count") + struct.pack("<II", 4, 30)
    header += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    header += text("blk.0.attn_q.weight") + struct.pack("<I", len(shape))
    header += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", tensor_type, 0)
    return header + bytes(-len(header) % 32) + bytes(data_bytes)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


def test_metadata_and_tensors_are_read(tmp_path: Path) -> None:
    header = read_gguf_header(write(tmp_path, gguf()))
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 30,
        "tokens": ["a", "bc"],
    }
    tensor = header.tensors["blk.0.attn_q.weight"]
    assert (tensor.type_name, tensor.shape, tensor.size_bytes) == ("Q4_1", (64, 2), 80)
    assert tensor.start == len(gguf()) - 80


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = gguf()
    for length in range(len(whole)):
        with pytest.raises(CheckpointError, match="not a usable GGUF file"):
            read_gguf_header(write(tmp_path, whole[:length]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensors, at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "metadata keys, at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "a name of"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 is unknown"),
        (b"PK\3\4" + bytes(40), "does not begin"),
        (gguf(tensor_type=99), "unknown type 99"),
        (gguf(shape=(63, 2)), "whole Q4_1 blocks"),
        (gguf(shape=(64, 2**40)), "beyond the file"),
        (gguf(shape=(32,) * 5), "5 dimensions"),
    ],
)
def test_hostile_headers_get_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        read_gguf_header(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_gguf_header(tmp_path / "none.gguf")
