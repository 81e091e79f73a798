"""Greedy answers of a checkpoint in PyTorch, and how many of them are exactly right.

`python -m training.evaluate profiles/models/tiny-glm` prints the share by category, and what was
answered wrongly.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.answer_text import postprocess
from runtime.prompt import build_prompt, chatglm_ids
from runtime.tokenizer import Tokenizer
from training.checkpoint import load_checkpoint
from training.item import Item
from training.model import TinyGlm
from training.questions import exam_items

LONGEST_ANSWER = 48
ROWS = 64


def answers(model: TinyGlm, tokenizer: Tokenizer, items: Sequence[Item]) -> list[str]:
    """Greedy answers, in the order of the items."""
    found: list[str] = []
    for start in range(0, len(items), ROWS):
        found += _answers_together(model, tokenizer, items[start : start + ROWS])
    return found


def right_by_category(items: Sequence[Item], found: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many answers of each category are exactly right, and how many there are."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for item, text in zip(items, found, strict=True):
        counts[item.category][0] += text == item.answer
        counts[item.category][1] += 1
    return {category: (right, asked) for category, (right, asked) in counts.items()}


@torch.no_grad()
def _answers_together(model: TinyGlm, tokenizer: Tokenizer, items: Sequence[Item]) -> list[str]:
    """Decode all rows at once, without a cache: every step computes the whole sequence."""
    prompts = [chatglm_ids(tokenizer, build_prompt(one.history, one.question)) for one in items]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ends = lengths - 1
    ids = torch.full((len(items), int(lengths.max()) + LONGEST_ANSWER), tokenizer.special.pad)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    rows = torch.arange(len(items))
    running = torch.ones(len(items), dtype=torch.bool)
    for _ in range(LONGEST_ANSWER):
        hidden = model.hidden_states(ids[:, : int(lengths.max())], ends)
        chosen = model.lm_head(hidden[rows, lengths - 1]).argmax(-1)
        running &= chosen != tokenizer.special.eos
        if not running.any():
            break
        ids[rows[running], lengths[running]] = chosen[running]
        lengths = lengths + running
    return [
        postprocess(tokenizer.decode(row[len(prompt) : int(length)].tolist()))
        for row, prompt, length in zip(ids, prompts, lengths, strict=True)
    ]


def main() -> None:
    """Ask a checkpoint everything in the test list."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="directory of the checkpoint")
    model, tokenizer = load_checkpoint(parser.parse_args().checkpoint)
    items = exam_items()
    found = answers(model, tokenizer, items)
    for item, text in zip(items, found, strict=True):
        if text != item.answer:
            print(f"wrong: {item.history} {item.question!r} -> {text!r}, not {item.answer!r}")
    counts = right_by_category(items, found)
    for category, (right, asked) in counts.items():
        print(f"{category:15} {right:3} of {asked:3}")
    total = sum(right for right, _ in counts.values())
    print(f"{'all':15} {total:3} of {len(items):3} = {total / len(items):.1%}")


if __name__ == "__main__":
    main()
