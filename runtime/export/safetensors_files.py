"""The tensors of a checkpoint in safetensors files, single or sharded; read by memory map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from runtime.export.shards import list_shards
from scheduler.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class SafetensorsFiles:
    """Tensors by name; nothing is read until asked for.

    Raises CheckpointError on opening when a file is missing, truncated, outside the directory, or
    lacks a tensor that the index promises.
    """

    def __init__(self, directory: Path) -> None:
        self.files, promised = list_shards(directory, SINGLE, INDEX)
        self._home: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for file in self.files:
            handle = _open(file)
            for name in handle.keys():  # noqa: SIM118 (safe_open is not a mapping)
                if name in self._home:
                    raise CheckpointError(
                        f"{name} is in both {self._home[name]} and {file}; expected one copy."
                    )
                header = handle.get_slice(name)
                self._home[name] = file
                self._shapes[name] = tuple(header.get_shape())
                self._dtypes[name] = str(header.get_dtype())
        for name, file in promised.items():
            if self._home.get(name) != file:
                raise CheckpointError(
                    f"{file} lacks {name}, which {directory / INDEX} promises; download it again."
                )

    def names(self) -> list[str]:
        """All tensor names."""
        return list(self._home)

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions of a tensor that `names` lists."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """NumPy's (or ml_dtypes') name of the tensor's type."""
        return _DTYPES.get(self._dtypes[name], self._dtypes[name])

    def read(self, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """A copy of the tensor (or of some rows) in its own type."""
        # Opened anew each time: pages that were read count as ours for as long as a file is mapped.
        handle = _open(self._home[name])
        if not self.shape(name):
            return np.asarray(handle.get_tensor(name))
        return np.asarray(handle.get_slice(name)[rows])

    def where(self, name: str) -> Path:
        """The file that holds the tensor, for messages."""
        return self._home[name]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); download it again."
        ) from error
