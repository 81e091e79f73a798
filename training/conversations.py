"""Questions that need the rounds before them, and questions that must not be misled by them."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.arithmetic import calculation, two_numbers
from training.facts import NAMES_EN, NAMES_ZH
from training.item import FOLLOW_UP, Item, ask
from training.knowledge import CAPITAL_SUBJECTS, COLOUR_SUBJECTS, OPPOSITE_SUBJECTS

_SUBJECTS = [*CAPITAL_SUBJECTS, *CAPITAL_SUBJECTS, *OPPOSITE_SUBJECTS, *COLOUR_SUBJECTS]
_AND_ZH = ["那{}呢？", "{}呢？"]
_AND_EN = ["And {}?", "What about {}?", "And of {}?"]
_INTRODUCTIONS_ZH = ["我叫{}。", "我是{}。", "你好，我叫{}。", "我的名字是{}。"]
_INTRODUCTIONS_EN = ["My name is {}.", "I am {}.", "Hello, I am {}.", "I'm {}."]
_WHO_ZH = ["我叫什么名字？", "我是谁？", "我的名字是什么？"]
_WHO_EN = ["What is my name?", "Who am I?", "What's my name?"]


def next_fact(rng: random.Random) -> Item:
    """The same question about something else, as in "And Japan?"."""
    subject = rng.choice(_SUBJECTS)
    first, second = rng.sample(subject.facts, 2)
    if subject.language == "zh":
        text = rng.choice(_AND_ZH)
    else:
        text = rng.choice(_AND_EN if subject.category != "colour" else _AND_EN[:2])
    before = subject.question(rng, first)
    question = ask(rng, text.format(second[0]))
    return Item(FOLLOW_UP, subject.language, question, second[1]).after([before])


def next_sum(rng: random.Random) -> Item:
    """Something added to the result, or taken away from it."""
    while True:
        before = calculation(rng, *two_numbers(rng))
        result = sum(before.operands or ()) if before.kind == "addition" else -1
        change = rng.randint(1, 20) * rng.choice([1, 1, -1])
        if before.language != "none" and 0 <= result <= 99 and result + change >= 0:
            break
    size, number = abs(change), result + change
    if before.language == "zh":
        word, sign = ("加", "+") if change > 0 else ("减", "-")
        question = ask(rng, rng.choice(["再{}{}呢？", "再{}{}等于多少？"]).format(word, size))
        answer = f"{result}{sign}{size}等于{number}。"
    else:
        word = "plus" if change > 0 else "minus"
        question = ask(
            rng,
            rng.choice(["And {} {}?", "And {} {} more?"][: 1 + (change > 0)]).format(word, size),
        )
        answer = f"{result} {word} {size} is {number}."
    item = Item(FOLLOW_UP, before.language, question, answer, operands=(result, size))
    return item.after([before])


def introduction(rng: random.Random) -> Item:
    """Someone says who they are."""
    if rng.random() < 0.5:
        name = rng.choice(NAMES_ZH)
        question = ask(rng, rng.choice(_INTRODUCTIONS_ZH).format(name))
        return Item("introduction", "zh", question, f"你好，{name}！")
    name = rng.choice(NAMES_EN)
    question = ask(rng, rng.choice(_INTRODUCTIONS_EN).format(name))
    return Item("introduction", "en", question, f"Hello, {name}!")


def remembered_name(rng: random.Random, other: Callable[[random.Random], Item]) -> Item:
    """Who the user said they are, up to two other questions ago."""
    before = introduction(rng)
    between = [other(rng) for _ in range(rng.choice([0, 0, 1, 2]))]
    if before.language == "zh":
        question, answer = rng.choice(_WHO_ZH), f"你叫{before.answer[3:-1]}。"
    else:
        question, answer = rng.choice(_WHO_EN), f"Your name is {before.answer[7:-1]}."
    item = Item(FOLLOW_UP, before.language, ask(rng, question), answer)
    return item.after([before, *between])


def follow_up(rng: random.Random, other: Callable[[random.Random], Item]) -> Item:
    """A question that makes no sense without the rounds before it."""
    kind = rng.random()
    if kind < 0.5:
        return next_fact(rng)
    return next_sum(rng) if kind < 0.75 else remembered_name(rng, other)
