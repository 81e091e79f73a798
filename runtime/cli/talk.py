"""Whom a terminal chat talks with: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from runtime.cli.timing import summary_line
from runtime.conversation import Conversation
from runtime.engine import Generation
from runtime.sampling import Sampling


class Talk(Protocol):
    """A conversation as the chat loop needs it."""

    @property
    def dropped_rounds(self) -> int:
        """Oldest rounds that no longer fitted the context of the last question."""

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer's text; closing it stops the answer. Raises GlmPlanError."""

    def reset(self) -> None:
        """Forget every round."""

    def summary(self) -> str:
        """One line about the last answer's speed."""


class LocalTalk:
    """Talk with the model that this process has loaded."""

    def __init__(self, conversation: Conversation, sampling: Sampling, max_new_tokens: int) -> None:
        self._conversation = conversation
        self._sampling = sampling
        self._max_new_tokens = max_new_tokens
        self._generation = Generation()

    @property
    def dropped_rounds(self) -> int:
        """See `Talk`."""
        return self._conversation.dropped_rounds

    def ask(self, question: str) -> Generator[str]:
        """See `Talk`."""
        self._generation = Generation()
        return self._conversation.ask(
            question, self._sampling, self._max_new_tokens, self._generation
        )

    def reset(self) -> None:
        """See `Talk`."""
        self._conversation.reset()

    def summary(self) -> str:
        """See `Talk`."""
        return summary_line(self._generation)
