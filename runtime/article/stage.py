"""A stage of the article's blocks: the masks and positions that their graphs take."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.backends.protocol import FloatArray
from runtime.stage import Step
from runtime.step_inputs import Row, attention_mask, two_positions
from scheduler.errors import EngineError

IntArray = npt.NDArray[np.int32]

_ONE_ROW = "the article's graphs run one sequence at a time; {} were asked for."


class Blocks(Protocol):
    """What this stage needs of an engine; errors as in `runtime.backends.protocol.Backend`."""

    def forward(
        self, hidden: FloatArray, hidden_from: IntArray, position_ids: IntArray, cached: int
    ) -> FloatArray:
        """Run all blocks over hidden states [tokens, 1, hidden_size] and return the same shape.

        `hidden_from` is 1 where a token must not look, `position_ids` [1, 2, tokens]; of the
        history, the first `cached` tokens count.
        """

    def token_id(self, hidden: FloatArray) -> int:
        """The token that lm.mnn chooses from the last position's hidden states [hidden_size]."""


class ArticleStage:
    """Does for the article's graphs what `runtime.stage.Stage` does for ours, one row at a time."""

    def __init__(self, blocks: Blocks, vocab_size: int) -> None:
        self._blocks = blocks
        self._vocab_size = vocab_size

    def forward(self, step: Step, hidden: FloatArray) -> FloatArray:
        """Hidden states [1, tokens, hidden_size] after this stage; keys and values are kept."""
        rows = list(step.rows)
        if len(rows) != 1:
            raise EngineError(_ONE_ROW.format(len(rows)))
        cached = rows[0].cached
        if step.new_tokens == 1:
            # As the article's program does: one new token sees everything, by broadcasting.
            hidden_from = np.zeros((1, 1, 1, 1), np.int32)
        else:
            hidden_from = (attention_mask(rows, step.new_tokens, cached) != 0).astype(np.int32)
        position_ids = two_positions(rows, step.new_tokens).astype(np.int32)
        result = self._blocks.forward(np.swapaxes(hidden, 0, 1), hidden_from, position_ids, cached)
        return np.swapaxes(result, 0, 1)

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        """Refuse more than one row; the graphs keep their history themselves."""
        if rows != 1:
            raise EngineError(_ONE_ROW.format(rows))

    def grow(self, group: int, rows: int, capacity: int) -> None:
        """As `arrange`."""
        self.arrange(group, rows, capacity, ())

    def drop(self, group: int) -> None:
        """Nothing to do: the next prompt begins a new history."""

    def decode(
        self, group: int, rows: Sequence[Row | None], capacity: int, hidden: FloatArray
    ) -> FloatArray:
        """Hidden states [1, hidden_size] of one new token."""
        assert rows[0] is not None
        result: FloatArray = self.forward(Step((rows[0],), 1), hidden[None])[0]
        return result

    def settle(self) -> None:
        """Nothing is put off."""

    def prefill(
        self, group: int, number: int, row: Row, hidden: FloatArray
    ) -> Generator[None, None, FloatArray]:
        """Hidden states [tokens, hidden_size] of a prompt, without a pause."""
        yield from ()
        result: FloatArray = self.forward(Step((row,), len(hidden)), hidden[None])[0]
        return result

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [1, vocab_size] that are 1 for the token that lm.mnn's ArgMax chose, else 0.

        They serve greedy decoding alone: lm.mnn keeps the real ones to itself.
        """
        token = self._blocks.token_id(hidden[-1])
        if not 0 <= token < self._vocab_size:
            raise EngineError(
                f"lm.mnn chose token {token} and the vocabulary has {self._vocab_size}; the folder"
                " mixes files of two exports."
            )
        logits = np.zeros((1, self._vocab_size), np.float32)
        logits[0, token] = 1.0
        return logits
