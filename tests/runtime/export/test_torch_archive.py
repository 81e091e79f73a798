"""PyTorch checkpoints without PyTorch: the same numbers, and nothing that a pickle asks for."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.export.torch_archive import TorchFiles
from runtime.export.torch_pickle import RefusedPickleError, read_tensor_records
from scheduler.errors import CheckpointError
from tests.support import torch_zip

NAME = "pytorch_model.bin"


def refusal(directory):
    with pytest.raises(CheckpointError) as caught:
        TorchFiles(directory)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.int8])
def test_tensors_come_back(tmp_path, dtype):
    rng = np.random.default_rng(0)
    tensors = {
        "a": (rng.standard_normal((5, 3)) * 50).astype(dtype),
        "b": (rng.standard_normal(7) * 50).astype(dtype),
    }
    torch_zip.save(tmp_path / NAME, tensors)
    files = TorchFiles(tmp_path)
    assert sorted(files.names()) == ["a", "b"]
    for name, expected in tensors.items():
        assert files.shape(name) == expected.shape
        assert files.dtype(name) == np.dtype(dtype).name
        np.testing.assert_array_equal(files.read(name), expected)
    np.testing.assert_array_equal(files.read("a", slice(2, 4)), tensors["a"][2:4])


def test_views_of_one_storage(tmp_path):
    """Offset and strides, as transposed and tied tensors have them."""
    storage = np.arange(20, dtype=np.float32)
    items = {
        "whole": torch_zip.tensor("0", "float32", 20, (4, 5), (5, 1)),
        "turned": torch_zip.tensor("0", "float32", 20, (5, 4), (1, 5)),
        "tail": torch_zip.tensor("0", "float32", 20, (2, 5), (5, 1), offset=10),
    }
    torch_zip.write_zip(tmp_path / NAME, torch_zip.dictionary(items), {"0": storage.tobytes()})
    files = TorchFiles(tmp_path)
    np.testing.assert_array_equal(files.read("turned"), storage.reshape(4, 5).T)
    np.testing.assert_array_equal(files.read("tail"), storage[10:].reshape(2, 5))
    np.testing.assert_array_equal(files.read("turned", slice(1, 3)), storage.reshape(4, 5).T[1:3])


def test_what_pytorch_itself_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))
    state = model.state_dict()  # an OrderedDict with _metadata
    state["half"] = torch.randn(3, 5).half()
    state["bfloat16"] = torch.randn(3, 5).bfloat16()
    state["turned"] = state["half"].T
    state["int8"] = torch.arange(-5, 5, dtype=torch.int8)
    torch.save(state, tmp_path / NAME)
    files = TorchFiles(tmp_path)
    assert set(files.names()) == set(state)
    for name, expected in state.items():
        read = files.read(name).astype(np.float32)
        np.testing.assert_array_equal(read, expected.detach().float().numpy())
    torch.save(state, tmp_path / NAME, _use_new_zipfile_serialization=False)
    assert "before version 1.6" in refusal(tmp_path)


class Payload:
    """Pickles to a call that would leave a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, protocol):
    mark = tmp_path / "mark"
    content = pickle.dumps({"weight": Payload(mark)}, protocol)
    torch_zip.write_zip(tmp_path / NAME, content, {})
    assert f"refers to {os.system.__module__}.system" in refusal(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"a": 1}, 2), "holds 1 as 'a'"),
        (pickle.dumps([1], 2), "holds a list, not a dictionary"),
        (pickle.dumps({1: 2}, 2), "names an item by 1"),
        (pickle.dumps({"a": {1, 2}}, 2), "refers to __builtin__.set"),
        (pickle.dumps({"a": {1, 2}}, 4), "EMPTY_SET"),
        (pickle.dumps({"a": b"x"}, 4), "SHORT_BINBYTES"),
        (b"\x80\x02}X\x01\x00\x00\x00ac__main__\nx\ns.", "refers to __main__.x"),
        (torch_zip.dictionary({"a": b"ctorch\nHalfStorage\n"}), "holds torch.HalfStorage"),
        (torch_zip.dictionary({"a": b"ctorch\nHalfStorage\n)R"}), "calls torch.HalfStorage"),
        (torch_zip.dictionary({"a": b"ctorch.nn\nLinear\n)R"}), "refers to torch.nn.Linear"),
        (torch_zip.dictionary({"a": b"ccollections\nOrderedDict\n}b"}), "sets the state of"),
        (b"", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02.", "not a dictionary"),
        (b"garbage", "damaged|instruction"),
    ],
)
def test_pickles_of_other_things_are_refused(content, said):
    with pytest.raises(RefusedPickleError, match=said):
        read_tensor_records(content)


def test_a_huge_memo_index_costs_nothing():
    """The standard unpickler would make room for two billion entries."""
    assert read_tensor_records(b"\x80\x02}r\xff\xff\xff\x7f.") == {}


@pytest.mark.parametrize(
    "tensor",
    [
        torch_zip.tensor("0", "float32", 4, (3, 2), (2, 1)),  # beyond its storage
        torch_zip.tensor("0", "float32", 4, (2, 2), (2, 1), offset=1),
        torch_zip.tensor("0", "float32", 4, (2, 2), (1 << 30, 1)),
        torch_zip.tensor("0", "float32", 4, (-1, 2), (2, 1)),
        torch_zip.tensor("0", "float32", 4, (2, 2), (-2, 1), offset=3),
        torch_zip.tensor("0", "float32", -4, (2, 2), (2, 1)),
        torch_zip.tensor("0", "float32", 4, (2, 2), (1,)),
        torch_zip.tensor("0", "float32", 4, (1,) * 9, (1,) * 9),
    ],
)
def test_tensors_that_reach_outside_are_refused(tmp_path, tensor):
    torch_zip.write_zip(tmp_path / NAME, torch_zip.dictionary({"a": tensor}), {"0": bytes(16)})
    refusal(tmp_path)


def test_storages_that_are_missing_short_or_compressed(tmp_path):
    content = torch_zip.dictionary({"a": torch_zip.tensor("0", "float32", 4, (4,), (1,))})
    torch_zip.write_zip(tmp_path / NAME, content, {})
    assert "lacks the storage 0" in refusal(tmp_path)
    torch_zip.write_zip(tmp_path / NAME, content, {"0": bytes(15)})
    assert "expected 16 plain bytes" in refusal(tmp_path)
    with zipfile.ZipFile(tmp_path / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", content, zipfile.ZIP_STORED)
        archive.writestr("m/data/0", bytes(16))
    assert "expected 16 plain bytes" in refusal(tmp_path)
    with zipfile.ZipFile(tmp_path / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", content)
    assert "data.pkl compressed" in refusal(tmp_path)


def test_other_files(tmp_path):
    (tmp_path / NAME).write_bytes(b"something else")
    assert "not a PyTorch zip file" in refusal(tmp_path)
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr("x", b"y")
    assert "without one data.pkl" in refusal(tmp_path)
    torch_zip.write_zip(tmp_path / NAME, torch_zip.dictionary({}), {}, byteorder=b"big")
    assert "not little endian" in refusal(tmp_path)


def test_truncation_anywhere_is_refused(tmp_path):
    torch_zip.save(tmp_path / NAME, {"a": np.arange(64, dtype=np.float32)})
    whole = (tmp_path / NAME).read_bytes()
    for size in range(1, len(whole), 37):
        (tmp_path / NAME).write_bytes(whole[:size])
        refusal(tmp_path)


def test_local_header_that_lies(tmp_path):
    torch_zip.save(tmp_path / NAME, {"a": np.arange(64, dtype=np.float32)})
    content = bytearray((tmp_path / NAME).read_bytes())
    with zipfile.ZipFile(tmp_path / NAME) as archive:
        start = next(one for one in archive.infolist() if "/data/" in one.filename).header_offset
    struct.pack_into("<H", content, start + 28, 65535)  # length of the extra field
    (tmp_path / NAME).write_bytes(content)
    assert "damaged" in refusal(tmp_path)


@given(content=st.data())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_changed_byte_gives_tensors_or_a_refusal(tmp_path, content):
    torch_zip.save(tmp_path / NAME, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
    whole = bytearray((tmp_path / NAME).read_bytes())
    for _ in range(content.draw(st.integers(1, 4))):
        whole[content.draw(st.integers(0, len(whole) - 1))] = content.draw(st.integers(0, 255))
    (tmp_path / NAME).write_bytes(whole)
    with contextlib.suppress(CheckpointError):
        files = TorchFiles(tmp_path)
        for name in files.names():
            files.read(name)


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes_are_records_or_a_refusal(content):
    with contextlib.suppress(RefusedPickleError):
        read_tensor_records(b"\x80\x02" + content)
