"""Word embeddings in a file on disk; only the rows that a prompt needs are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.manifest import VALUE_BYTES, EmbeddingDtype
from scheduler.errors import BundleError

_STORED = {"bf16": "<u2", "fp16": "<f2", "fp32": "<f4"}  # NumPy knows no bf16


class EmbeddingFile:
    """A memory map over rows of ``dtype`` [vocab_size, hidden_size], little endian.

    Raises BundleError when the file's size is not exactly that.
    """

    def __init__(
        self, path: Path, vocab_size: int, hidden_size: int, dtype: EmbeddingDtype = "bf16"
    ) -> None:
        expected_bytes = vocab_size * hidden_size * VALUE_BYTES[dtype]
        actual_bytes = path.stat().st_size if path.is_file() else 0
        if actual_bytes != expected_bytes:
            raise BundleError(
                f"{path} has {actual_bytes} bytes; expected {expected_bytes} for {vocab_size} rows"
                f" of {hidden_size} {dtype} values. Export the bundle again."
            )
        self._rows = np.memmap(
            path, dtype=_STORED[dtype], mode="r", shape=(vocab_size, hidden_size)
        )

    def lookup(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Hidden states [tokens, hidden_size] in fp32 of these token ids."""
        rows = self._rows[np.asarray(token_ids, dtype=np.int64)]
        if rows.dtype.kind == "u":
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)
