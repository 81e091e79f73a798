"""ChatGLM-6B's chat format: rounds of question and answer, and the two tokens that end a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runtime.manifest import SpecialTokens
from runtime.tokenizer import StreamDecoder, TextCodec
from scheduler.errors import UserInputError


class ChatGlmCodec(TextCodec, Protocol):
    """A tokenizer of ChatGLM-6B's vocabulary."""

    special: SpecialTokens


class ChatGlmFormat:
    """Messages as ChatGLM-6B was trained on them.

    There are no tools and no system role: a system text goes before the first question.
    """

    def __init__(self, tokenizer: ChatGlmCodec) -> None:
        self.tokenizer = tokenizer

    def prompt_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of rounds and a question, then [gMASK] and <sop>.

        Raises UserInputError unless questions and answers take turns and a question comes last.
        """
        system, rounds = _split_system(messages)
        turns = [("user", "assistant")[number % 2] for number in range(len(rounds))]
        if tools or len(rounds) % 2 == 0 or [one["role"] for one in rounds] != turns:
            raise UserInputError(
                "ChatGLM-6B knows a system text, then user and assistant in turns with a user's"
                " message at the end, and no tools; send it such messages."
            )
        texts = [str(one["content"]) for one in rounds]
        history = list(zip(texts[:-1:2], texts[1:-1:2], strict=True))
        return chatglm_ids(self.tokenizer, build_prompt(history, texts[-1], system))

    def answer_stream(self) -> StreamDecoder:
        """A decoder that gives the answer the release's last touch."""
        return StreamDecoder(self.tokenizer)


def build_prompt(
    history: Sequence[tuple[str, str]], question: str, system: str | None = None
) -> str:
    """The text of a prompt: the question alone, or every round before it in the published format.

    ChatGLM has no system role, so `system` goes before the first question.
    """
    questions = [past for past, _ in history] + [question]
    if system:
        questions[0] = f"{system}\n{questions[0]}"
    if not history:
        return questions[0]
    rounds = [
        f"[Round {number}]\n问：{asked}\n答：{answer}\n"
        for number, (asked, (_, answer)) in enumerate(zip(questions, history, strict=False))
    ]
    return "".join(rounds) + f"[Round {len(history)}]\n问：{questions[-1]}\n答："


def chatglm_ids(tokenizer: ChatGlmCodec, prompt: str) -> list[int]:
    """Token ids of a prompt, then [gMASK] and <sop>: generation continues from there."""
    special = tokenizer.special
    return [*tokenizer.encode(prompt), special.gmask, special.bos]


def _split_system(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    if messages and messages[0]["role"] == "system":
        return str(messages[0]["content"]), messages[1:]
    return None, messages
