"""One question with the rounds before it and the one answer that counts as right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

MARKS = "？?。.！! "
FOLLOW_UP = "follow-up"


@dataclass(frozen=True)
class Item:
    """What the model learns from or is tested with.

    `kind` is what the question is about; `operands` are the numbers of a sum or difference;
    `context` holds the rounds before, oldest first.
    """

    kind: str
    language: str
    question: str
    answer: str
    operands: tuple[int, int] | None = None
    context: tuple[Item, ...] = ()

    @property
    def category(self) -> str:
        """The kind, unless the difficulty lies in rounds about other things."""
        return "later question" if self.context and self.kind != FOLLOW_UP else self.kind

    @property
    def history(self) -> list[tuple[str, str]]:
        """The rounds before, as questions and answers."""
        return [(past.question, past.answer) for past in self.context]

    def after(self, rounds: Sequence[Item]) -> Item:
        """The same item with more rounds before it."""
        return replace(self, context=(*rounds, *self.context))

    def json(self) -> dict[str, Any]:
        """As a line of the test list."""
        return {
            "category": self.category,
            "language": self.language,
            "history": [list(past) for past in self.history],
            "question": self.question,
            "answer": self.answer,
        }


def ask(rng: random.Random, text: str) -> str:
    """A question as people type it: mostly whole, some without the mark at its end, or in ASCII."""
    if text.isascii() and rng.random() < 0.08:
        text = text.lower()
    bare = text.rstrip(MARKS)
    mark = text[len(bare) :]
    return bare + rng.choices([mark, "", "?" if mark == "？" else mark], [70, 22, 8])[0]
