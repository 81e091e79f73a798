"""What a stage needs from an engine: load parts, keep keys and values, run them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StepInputs:
    """What a forward reads, fp32, for B rows of S new tokens over a cache of T tokens.

    `hidden` [B, S, hidden_size], `mask` [B, 1, S, T + S] (0 or very negative; cache first), `cos`
    and `sin` [B, 1, S, rotary dim / 2], or [B, 2, S, head_dim / 4] in ChatGLM-6B.
    """

    hidden: FloatArray
    mask: FloatArray
    cos: FloatArray
    sin: FloatArray


class Backend(Protocol):
    """One engine on one device, inside the worker process that owns it.

    Keys and values are kept in groups: rows that are decoded together. Arrays that come back are
    fp32 and valid until the next call. Every method raises EngineError when the engine fails; a
    failed forward changes nothing that a later one would see.
    """

    def load_block(self, path: Path) -> None:
        """Append the block in this file to the run of blocks that a forward computes."""

    def load_lm_head(self, path: Path) -> None:
        """Load the final norm and vocabulary projection."""

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        """Give a group's cache `rows` rows with room for `capacity` tokens each.

        Row r keeps what row sources[r] held, as far as there is room; -1 stands for nothing.
        """

    def drop(self, group: int) -> None:
        """Give back the memory of a group's cache."""

    def decode(self, group: int, inputs: StepInputs, write_at: Sequence[int]) -> FloatArray:
        """Run all blocks over one new token in each row of a group; return hidden states.

        Row r's keys and values are stored at slot write_at[r], unless that is -1; perhaps later,
        see `settle`.
        """

    def settle(self) -> None:
        """Do what the last decode may have put off: a good moment is when its answer is on its way.

        Whatever is called next does it too.
        """

    def prefill(
        self, group: int, row: int, cached: int, inputs: StepInputs
    ) -> Generator[None, None, FloatArray]:
        """Run all blocks over new tokens of one row, pausing after each; return hidden states.

        The mask is made for a cache of `kv_capacity(cached)` tokens. New keys and values follow the
        `cached` ones in this row. Between two blocks, anything but another prefill may be called.
        """

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of hidden states [rows, hidden_size]."""
