"""TensorFiles: tensors by name, whichever file format holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from runtime.export import safetensors_files, torch_archive
from scheduler.errors import CheckpointError


class TensorFiles(Protocol):
    """What a checkpoint needs of its weight files; names are those that `names` lists."""

    files: list[Path]

    def names(self) -> list[str]:
        """All tensor names."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions of a tensor."""
        ...

    def dtype(self, name: str) -> str:
        """NumPy's (or ml_dtypes') name of a tensor's type."""
        ...

    def read(self, name: str, rows: slice = ...) -> npt.NDArray[Any]:
        """A tensor, or some of its rows, in its own type."""
        ...

    def where(self, name: str) -> Path:
        """The file that holds a tensor."""
        ...


def open_tensors(directory: Path) -> TensorFiles:
    """Open the weights in ``directory``, safetensors first.

    Raises CheckpointError when there are none, or for what the formats themselves refuse.
    """
    formats = ((safetensors_files, "SafetensorsFiles"), (torch_archive, "TorchFiles"))
    for module, reader in formats:
        if any((directory / name).exists() for name in (module.SINGLE, module.INDEX)):
            tensors: TensorFiles = getattr(module, reader)(directory)
            return tensors
    raise CheckpointError(
        f"{directory} has neither {safetensors_files.SINGLE} nor {torch_archive.SINGLE}, nor an"
        " index of shards; expected the weights of the model."
    )
