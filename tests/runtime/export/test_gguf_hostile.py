"""Hostile GGUF files: one sentence, in bounded time and memory, whatever is wrong with them."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.export.gguf_blocks import dequantised_rows
from runtime.export.gguf_header import read_gguf_header
from runtime.export.gguf_source import GgufSource
from runtime.export.weight_source import expected_shapes
from scheduler.errors import CheckpointError
from tests.support.gguf_files import write_gguf

HOSTILE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "m.gguf"
    texts = [f"t{number}" for number in range(96)]
    general = {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": [1] * 96}
    write_gguf(path, types={"ffn": "Q4_1", "attn_k": "Q8_0", "token": "F16"}, general=general)
    return path


@pytest.fixture(scope="module")
def header_bytes(whole) -> int:
    return min(tensor.start for tensor in read_gguf_header(whole).tensors.values())


def opens_or_refuses(path: Path) -> None:
    """Read everything that a file promises; the only way out is one sentence."""
    try:
        source = GgufSource(path)
        for name in expected_shapes(source.config):
            source.tensor(name)
    except CheckpointError as error:
        sentence = str(error)
        assert str(path) in sentence
        assert "\n" not in sentence
        assert len(sentence) < 1000


@HOSTILE
@given(st.data())
def test_any_header_with_a_few_bytes_changed(whole, header_bytes, tmp_path, data):
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, header_bytes - 1))
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "m.gguf").write_bytes(content)
    opens_or_refuses(tmp_path / "m.gguf")


@HOSTILE
@given(st.data())
def test_any_header_with_a_number_blown_up(whole, header_bytes, tmp_path, data):
    content = bytearray(whole.read_bytes())
    place = data.draw(st.integers(4, header_bytes - 8))
    struct.pack_into("<Q", content, place, data.draw(st.sampled_from([2**63, 2**40, 2**31, 0])))
    (tmp_path / "m.gguf").write_bytes(content)
    opens_or_refuses(tmp_path / "m.gguf")


@HOSTILE
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_letters(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    opens_or_refuses(tmp_path / "m.gguf")


@HOSTILE
@given(st.floats(0, 1, exclude_max=True))
def test_any_truncation(whole, tmp_path, share):
    content = whole.read_bytes()
    (tmp_path / "m.gguf").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="not a usable GGUF file"):
        GgufSource(tmp_path / "m.gguf")


def tensor_entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name.encode() + dims + struct.pack("<IQ", kind, offset)


def file_of(*entries: bytes, keys: bytes = b"", key_count: int = 0, data_bytes: int = 512) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), key_count) + keys + b"".join(entries)
    return head + bytes(-len(head) % 32) + bytes(data_bytes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (file_of(tensor_entry("a", (0,), 0, 0)), "'a' is empty"),
        (file_of(tensor_entry("a", (8, 0), 0, 0)), "'a' is empty"),
        (file_of(tensor_entry("a", (8,), 0, 4)), "'a' is misaligned"),
        (file_of(tensor_entry("a", (8,), 0, 512)), "ends beyond the file"),
        (file_of(tensor_entry("a", (8,), 0, 2**64 - 32)), "ends beyond the file"),
        (file_of(tensor_entry("a", (2**63, 2**63), 0, 0)), "ends beyond the file"),
        (file_of(tensor_entry("a", (8,), 0, 0), tensor_entry("a", (8,), 0, 32)), "occurs twice"),
        (
            file_of(tensor_entry("a", (16,), 0, 0), tensor_entry("b", (8,), 0, 32)),
            "'b' overlaps another",
        ),
        (file_of(tensor_entry("a", (256,), 23, 0)), "'a' as IQ4_XS; types that are read: BF16"),
        (file_of(tensor_entry("a", (256,), 4, 0)), "unknown type 4"),
        (
            file_of(
                keys=struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 1), key_count=1
            ),
            "not UTF-8",
        ),
        (
            file_of(
                keys=struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0),
                key_count=1,
            ),
            "general.alignment is not",
        ),
        (
            file_of(keys=struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1), key_count=1),
            "unknown type 9",  # lists of lists are not written by anyone
        ),
        (
            file_of(
                keys=struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**21 + 1),
                key_count=1,
                data_bytes=3 << 20,
            ),
            "items in lists, at most",
        ),
    ],
)
def test_what_is_wrong_is_said(content, sentence, tmp_path):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        read_gguf_header(tmp_path / "m.gguf")


def test_a_promise_of_much_takes_no_memory(tmp_path):
    """A small file whose list says 2 million texts, each of 4 GiB."""
    keys = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**21)
    content = file_of(keys=keys + struct.pack("<Q", 2**32), key_count=1)
    (tmp_path / "m.gguf").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="goes beyond what the file holds"):
            read_gguf_header(tmp_path / "m.gguf")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_rows_are_read_without_the_rest_of_their_matrix(tmp_path):
    rows = np.zeros((40_000, 256), np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("big", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = read_gguf_header(tmp_path / "m.gguf").tensors["big"]
    tracemalloc.start()
    try:
        assert dequantised_rows(tensor, 30_000, 30_010).shape == (10, 256)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
