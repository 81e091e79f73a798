"""The mixture that the tiny model learns from, and the list that it is tested with.

`python -m training.questions tests/data/tiny_glm_questions.jsonl` writes the list.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runtime.prompt import build_prompt
from training.arithmetic import addition, counting, subtraction, times_table
from training.conversations import follow_up, introduction
from training.held_out import may_test, may_train
from training.item import Item
from training.knowledge import capital, colour, opposite, talk, unit

Maker = Callable[[random.Random], Item]

EXAM_SEED = 7
# ChatGLM has no system role: the system text stands before the first question, and changes nothing.
_SYSTEM_TEXTS = ["You are a helpful assistant.", "You are ChatGLM.", "Answer briefly.", "Be brief."]
_SYSTEM_TEXTS += ["你是一个有用的助手。", "你是一个人工智能助手。", "请简短回答。"]


def _single(rng: random.Random) -> Item:
    """A question that stands alone."""
    return _one_of(rng, _SINGLE)


def _follow_up(rng: random.Random) -> Item:
    return follow_up(rng, _single)


def _later_question(rng: random.Random) -> Item:
    """A question that stands alone, or a follow-up, after rounds about other things."""
    rounds = [_single(rng) for _ in range(rng.choices([1, 2, 3, 5], [6, 3, 2, 1])[0])]
    item = _follow_up(rng) if rng.random() < 0.25 else _single(rng)
    return item.after(rounds)


def _one_of(rng: random.Random, kinds: list[tuple[Maker, float, int]]) -> Item:
    makers = [maker for maker, _, _ in kinds]
    return rng.choices(makers, [share for _, share, _ in kinds])[0](rng)


# maker, share of training, items in the test list
_SINGLE: list[tuple[Maker, float, int]] = [
    (addition, 0.26, 90),
    (subtraction, 0.26, 70),
    (times_table, 0.06, 20),
    (counting, 0.07, 25),
    (capital, 0.12, 50),
    (opposite, 0.09, 40),
    (colour, 0.05, 25),
    (unit, 0.05, 25),
    (talk, 0.03, 25),
    (introduction, 0.01, 5),
]
_ALL: list[tuple[Maker, float, int]] = [
    *_SINGLE,
    (_follow_up, 0.11, 50),
    (_later_question, 0.09, 30),
]


def training_item(rng: random.Random) -> Item:
    """One item to learn from; nothing in it is held out."""
    while not may_train(item := _one_of(rng, _ALL)):
        pass
    return _with_system_text(rng, item) if rng.random() < 0.02 else item


def exam_items(seed: int = EXAM_SEED) -> list[Item]:
    """The test list: distinct items of every category; training shows none of them but talk."""
    rng = random.Random(seed)
    items: list[Item] = []
    for maker, _, count in _ALL:
        chosen: dict[str, Item] = {}
        while len(chosen) < count:
            item = maker(rng)
            if may_test(item):
                chosen.setdefault(build_prompt(item.history, item.question), item)
        items.extend(chosen.values())
    return items


def write_exam(path: Path) -> None:
    """Write the test list as JSON lines."""
    lines = [json.dumps(item.json(), ensure_ascii=False) + "\n" for item in exam_items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _with_system_text(rng: random.Random, item: Item) -> Item:
    first, *others = [*item.context, item]
    first = replace(first, question=f"{rng.choice(_SYSTEM_TEXTS)}\n{first.question}")
    return replace(item, context=(first, *others[:-1])) if others else first


if __name__ == "__main__":
    write_exam(Path(sys.argv[1]))
