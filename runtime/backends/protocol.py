"""What a stage needs from an engine: load parts, keep keys and values, run them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Backend(Protocol):
    """One engine on one device, inside the worker process that owns it.

    All arrays are fp32. Every method raises EngineError when the engine fails; a failed forward
    changes nothing that a later one would see.
    """

    def load_block(self, path: Path) -> None:
        """Append the block in this file to the run of blocks that `forward` computes."""

    def load_lm_head(self, path: Path) -> None:
        """Load the final norm and vocabulary projection."""

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for `capacity` tokens in each of `rows` sequences; what is cached stays."""

    def forward(
        self,
        hidden: FloatArray,
        mask: FloatArray,
        cos: FloatArray,
        sin: FloatArray,
        write_at: list[int],
        capacity_after: int,
    ) -> FloatArray:
        """Run all blocks over hidden states [rows, tokens, hidden_size] and return the same shape.

        `mask` is [rows, 1, tokens, capacity + tokens], `cos` and `sin` are as `RotaryTable.at`
        gives them. New keys and values of row r are stored from slot write_at[r] on, in a cache
        grown to `capacity_after`.
        """

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of hidden states [rows, hidden_size]."""
