"""Greedy answers of the PyTorch model, and how many of them are exactly right."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runtime.answer_text import postprocess
from runtime.prompt import build_prompt, chatglm_ids
from runtime.tokenizer import Tokenizer
from training.model import TinyGlm
from training.questions import Item

LONGEST_ANSWER = 48


@torch.no_grad()
def answers(model: TinyGlm, tokenizer: Tokenizer, items: Sequence[Item]) -> list[str]:
    """Greedy answers, decoded together without a cache."""
    prompts = [chatglm_ids(tokenizer, build_prompt(i.history, i.question)) for i in items]
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max()) + LONGEST_ANSWER
    ids = torch.full((len(items), width), tokenizer.special.pad)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    running = torch.ones(len(items), dtype=torch.bool)
    rows = torch.arange(len(items))
    for _ in range(LONGEST_ANSWER):
        hidden = model.hidden_states(ids[:, : int(lengths.max())], ends)
        chosen = model.lm_head(hidden[rows, lengths - 1]).argmax(-1)
        running &= chosen != tokenizer.special.eos
        if not running.any():
            break
        ids[rows[running], lengths[running]] = chosen[running]
        lengths += running
    return [
        postprocess(tokenizer.decode(row[len(prompt) : int(length)].tolist()))
        for row, prompt, length in zip(ids, prompts, lengths, strict=True)
    ]


def accuracy(model: TinyGlm, tokenizer: Tokenizer, items: Sequence[Item]) -> float:
    """Share of items answered exactly."""
    found = answers(model, tokenizer, items)
    return sum(text == item.answer for text, item in zip(found, items, strict=True)) / len(items)
