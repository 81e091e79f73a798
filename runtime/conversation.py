"""A conversation: rounds in the model's format, answers streamed, old rounds dropped when full."""

from __future__ import annotations

from collections.abc import Generator

from runtime.chat_format import ChatFormat, Message
from runtime.engine import Engine, Generation
from runtime.sampling import Sampling


class Conversation:
    """Questions and answers with one loaded model.

    `history` holds finished rounds as (question, answer); an interrupted answer counts as far as it
    came. `dropped_rounds` counts the oldest ones that no longer fitted the context of the last
    question.
    """

    def __init__(self, engine: Engine, chat_format: ChatFormat, system: str | None = None) -> None:
        self.history: list[tuple[str, str]] = []
        self.dropped_rounds = 0
        self._engine = engine
        self._format = chat_format
        self._system = system

    def ask(
        self, question: str, sampling: Sampling, max_new_tokens: int, generation: Generation
    ) -> Generator[str]:
        """Yield the answer's text piece by piece; `generation` records tokens and times.

        Raises UserInputError when the question alone does not fit the context, and when the model
        has no form for a system text or for earlier rounds.
        """
        prompt_ids = self._prompt_ids(question)
        decoder = self._format.answer_stream()
        pieces: list[str] = []
        try:
            for token_id in self._engine.generate(prompt_ids, sampling, max_new_tokens, generation):
                text = decoder.push(token_id)
                if text:
                    pieces.append(text)
                    yield text
            text = decoder.finish()
            if text:
                pieces.append(text)
                yield text
        finally:
            if generation.prefill is not None:
                self.history.append((question, "".join(pieces)))

    def reset(self) -> None:
        """Forget every round."""
        self.history.clear()
        self.dropped_rounds = 0

    def _prompt_ids(self, question: str) -> list[int]:
        """The newest rounds that fit beside the question, leaving a quarter for the answer."""
        room = self._engine.context_tokens * 3 // 4
        for dropped in range(len(self.history) + 1):
            prompt_ids = self._format.prompt_ids(self._messages(self.history[dropped:], question))
            if len(prompt_ids) <= room:
                break
        self.dropped_rounds = dropped
        return prompt_ids

    def _messages(self, rounds: list[tuple[str, str]], question: str) -> list[Message]:
        messages = [{"role": "system", "content": self._system}] if self._system else []
        for asked, answer in rounds:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": question}]
