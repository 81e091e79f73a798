"""ChatGLM's chat format: rounds of question and answer, and the two tokens that end a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.tokenizer import TextCodec


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


def chatglm_ids(tokenizer: TextCodec, prompt: str) -> list[int]:
    """Token ids of a prompt, then [gMASK] and <sop>: generation continues from there."""
    special = tokenizer.special
    return [*tokenizer.encode(prompt), special.gmask, special.bos]
