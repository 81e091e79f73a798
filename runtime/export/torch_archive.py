"""The tensors of a checkpoint in PyTorch's zip files, single or sharded; read by memory map.

PyTorch is not needed, and nothing in the files is run.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import numpy.typing as npt

from runtime.export.shards import list_shards
from runtime.export.torch_pickle import RefusedPickleError, TensorRecord, read_tensor_records
from scheduler.errors import CheckpointError

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
_PICKLE_BYTES_LIMIT = 64 << 20
# What the zipfile module raises for broken directories, odd names, encryption and new versions.
_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, struct.error, RuntimeError, ValueError)
_LOCAL_HEADER_BYTES = 30  # APPNOTE.TXT 4.3.7: fixed part, then name and extra field
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of the old format


@dataclass(frozen=True)
class _Stored:
    file: Path
    record: TensorRecord
    start: int  # of the storage, in bytes from the start of the file


class TorchFiles:
    """Tensors by name, in ``pytorch_model.bin`` or the shards of its index.

    Raises CheckpointError on opening as `SafetensorsFiles` does, and for the format from before
    PyTorch 1.6, compressed entries, and pickles that hold more than tensors.
    """

    def __init__(self, directory: Path) -> None:
        self.files, promised = list_shards(directory, SINGLE, INDEX)
        self._tensors: dict[str, _Stored] = {}
        for file in self.files:
            for name, stored in _read_archive(file).items():
                if name in self._tensors:
                    raise CheckpointError(
                        f"{name} is in both {self._tensors[name].file} and {file}; expected one"
                        " copy."
                    )
                self._tensors[name] = stored
        for name, file in promised.items():
            if name not in self._tensors or self._tensors[name].file != file:
                raise CheckpointError(
                    f"{file} lacks {name}, which {directory / INDEX} promises; download it again."
                )

    def names(self) -> list[str]:
        """All tensor names."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions of a tensor that `names` lists."""
        return self._tensors[name].record.shape

    def dtype(self, name: str) -> str:
        """NumPy's (or ml_dtypes') name of the tensor's type."""
        return self._tensors[name].record.dtype

    def read(self, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """The tensor (or some rows) as a read-only view of the mapped file."""
        stored = self._tensors[name]
        record = stored.record
        dtype = np.dtype(ml_dtypes.bfloat16 if record.dtype == "bfloat16" else record.dtype)
        storage = np.memmap(
            stored.file,
            dtype.newbyteorder("<") if dtype.kind in "fiu" else dtype,
            mode="r",
            offset=stored.start,
            shape=(record.storage_size,),
        )
        strides = tuple(step * dtype.itemsize for step in record.stride)
        view = np.lib.stride_tricks.as_strided(
            storage[record.offset :], record.shape, strides, writeable=False
        )
        return np.asarray(view[rows] if record.shape else view)

    def where(self, name: str) -> Path:
        """The file that holds the tensor, for messages."""
        return self._tensors[name].file


def _read_archive(path: Path) -> dict[str, _Stored]:
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [
                name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
            ]
            if len(pickles) != 1:
                raise CheckpointError(
                    f"{path} is a zip file without one data.pkl; expected a PyTorch checkpoint."
                )
            root = pickles[0].removesuffix("data.pkl")
            _require_little_endian(path, archive, entries.get(f"{root}byteorder"))
            pickle = _small(path, archive, entries[pickles[0]])
            tensors = read_tensor_records(pickle)
            starts: dict[str, int] = {}
            for record in tensors.values():
                if record.storage not in starts:
                    entry = entries.get(f"{root}data/{record.storage}")
                    starts[record.storage] = _start_of(path, file, entry, record)
    except RefusedPickleError as error:
        raise CheckpointError(
            f"{path} {error}; expected tensors and nothing else, so it was not read."
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(_not_a_zip(path, error)) from error
    return {name: _Stored(path, record, starts[record.storage]) for name, record in tensors.items()}


def _small(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _PICKLE_BYTES_LIMIT:
        raise CheckpointError(
            f"{path} has {entry.filename} compressed or over {_PICKLE_BYTES_LIMIT} bytes; expected"
            " what torch.save writes."
        )
    return archive.read(entry)


def _require_little_endian(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None
) -> None:
    # Absent before PyTorch 2.1, when every known checkpoint was little endian.
    if entry is not None and _small(path, archive, entry) != b"little":
        raise CheckpointError(f"{path} is not little endian; save it again on a usual machine.")


def _start_of(
    path: Path, file: BinaryIO, entry: zipfile.ZipInfo | None, record: TensorRecord
) -> int:
    """Where an uncompressed storage begins, from its local header."""
    if entry is None:
        raise CheckpointError(f"{path} lacks the storage {record.storage}; download it again.")
    itemsize = 2 if record.dtype == "bfloat16" else np.dtype(record.dtype).itemsize
    needed_bytes = record.storage_size * itemsize
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < needed_bytes:
        raise CheckpointError(
            f"{path} stores {entry.filename} in {entry.file_size} bytes, compressed or too short;"
            f" expected {needed_bytes} plain bytes."
        )
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    signature, name_bytes, extra_bytes = struct.unpack("<4s22xHH", header)
    start: int = entry.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    if signature != b"PK\x03\x04" or start + needed_bytes > path.stat().st_size:
        raise CheckpointError(f"{path} is damaged at {entry.filename}; download it again.")
    return start


def _not_a_zip(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC:
        return (
            f"{path} is in PyTorch's format from before version 1.6; load it with torch and save it"
            " as safetensors."
        )
    if start.startswith(b"PK"):
        return f"{path} is cut off or damaged ({str(error)[:200]}); download it again."
    return f"{path} is not a PyTorch zip file ({error}); expected what torch.save writes."
