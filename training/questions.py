"""Questions and answers that the tiny model learns from and is tested with, in Chinese and English."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from training.facts import (
    CAPITALS,
    COLOURS,
    NAMES_EN,
    NAMES_ZH,
    OPPOSITES_EN,
    OPPOSITES_ZH,
    TALK_EN,
    TALK_ZH,
    UNITS,
)

LARGEST = 99  # operands of additions and subtractions
HELD_OUT_SHARE = 0.06
HELD_OUT_SEED = 20231124


@dataclass(frozen=True)
class Item:
    """A question with the rounds before it and the one answer that counts as right."""

    category: str
    language: str
    history: tuple[tuple[str, str], ...]
    question: str
    answer: str

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


Maker = Callable[[random.Random, bool], Item]


def is_held_out(a: int, b: int) -> bool:
    """Whether the pair {a, b} belongs to the test: never trained on, in no order, for + and -."""
    low, high = min(a, b), max(a, b)
    pair_seed = HELD_OUT_SEED * 10_000 + low * 100 + high
    return random.Random(pair_seed).random() < HELD_OUT_SHARE


def training_item(rng: random.Random) -> Item:
    """One item to learn from; it holds no held-out pair, in its history neither."""
    maker = rng.choices([maker for maker, _, _ in _MAKERS], [share for _, share, _ in _MAKERS])[0]
    return maker(rng, False)


def test_items(seed: int = 7) -> list[Item]:
    """The test list: distinct items of every category; all its arithmetic is held out."""
    rng = random.Random(seed)
    items: list[Item] = []
    for maker, _, count in _MAKERS:
        chosen: dict[tuple[Any, ...], Item] = {}
        while len(chosen) < count:
            item = maker(rng, True)
            chosen.setdefault((item.history, item.question), item)
        items.extend(chosen.values())
    return items


def _pair(rng: random.Random, held_out: bool) -> tuple[int, int]:
    """Two operands, small ones more often, from the held-out pairs or from the others."""
    while True:
        largest = LARGEST if rng.random() < 0.6 else 20
        a, b = rng.randint(0, largest), rng.randint(0, largest)
        if is_held_out(a, b) == held_out:
            return a, b


def _say_zh(rng: random.Random, text: str, mark: str) -> str:
    return text + mark if rng.random() < 0.75 else text


def _sum(rng: random.Random, held_out: bool) -> Item:
    a, b = _pair(rng, held_out)
    if rng.random() < 0.5:
        form = rng.choice(["{a}+{b}等于多少", "{a}+{b}等于几", "{a}加{b}等于多少", "{a}+{b}=", "计算{a}+{b}"])
        question = _say_zh(rng, form.format(a=a, b=b), "" if form.endswith("=") else "？")
        return Item("addition", "zh", (), question, f"{a}+{b}等于{a + b}。")
    form = rng.choice(["What is {a} plus {b}", "What is {a} + {b}", "How much is {a} plus {b}", "Add {a} and {b}"])
    mark = "." if form.startswith("Add") else "?"
    question = _say_zh(rng, form.format(a=a, b=b), mark)
    return Item("addition", "en", (), question, f"{a} plus {b} is {a + b}.")


def _difference(rng: random.Random, held_out: bool) -> Item:
    b, a = sorted(_pair(rng, held_out))
    if rng.random() < 0.5:
        form = rng.choice(["{a}-{b}等于多少", "{a}减{b}等于多少", "{a}-{b}等于几", "{a}-{b}=", "计算{a}-{b}"])
        question = _say_zh(rng, form.format(a=a, b=b), "" if form.endswith("=") else "？")
        return Item("subtraction", "zh", (), question, f"{a}-{b}等于{a - b}。")
    form = rng.choice(["What is {a} minus {b}", "What is {a} - {b}", "How much is {a} minus {b}"])
    question = _say_zh(rng, form.format(a=a, b=b), "?")
    return Item("subtraction", "en", (), question, f"{a} minus {b} is {a - b}.")


def _product(rng: random.Random, held_out: bool) -> Item:
    """The multiplication table: learned by heart, so no test of generalisation."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if rng.random() < 0.5:
        form = rng.choice(["{a}乘{b}等于多少", "{a}乘以{b}等于几"])
        return Item("multiplication", "zh", (), _say_zh(rng, form.format(a=a, b=b), "？"), f"{a}乘{b}等于{a * b}。")
    question = _say_zh(rng, f"What is {a} times {b}", "?")
    return Item("multiplication", "en", (), question, f"{a} times {b} is {a * b}.")


def _capital(rng: random.Random, held_out: bool) -> Item:
    country_zh, city_zh, country, city = rng.choice(CAPITALS)
    if rng.random() < 0.5:
        if rng.random() < 0.2:
            form = rng.choice(["{}是哪个国家的首都", "{}是哪国的首都"])
            question = _say_zh(rng, form.format(city_zh), "？")
            return Item("capital", "zh", (), question, f"{city_zh}是{country_zh}的首都。")
        form = rng.choice(["{}的首都是哪里", "{}的首都是哪个城市", "{}的首都是什么", "{}首都是哪里", "请问{}的首都是哪里", "告诉我{}的首都"])
        question = _say_zh(rng, form.format(country_zh), "？" if "告诉" not in form else "。")
        return Item("capital", "zh", (), question, f"{country_zh}的首都是{city_zh}。")
    if rng.random() < 0.2:
        question = _say_zh(rng, f"Which country has the capital {city}", "?")
        return Item("capital", "en", (), question, f"{city} is the capital of {country}.")
    form = rng.choice(["What is the capital of {}", "What's the capital of {}", "Tell me the capital of {}", "Which city is the capital of {}"])
    question = _say_zh(rng, form.format(country), "." if form.startswith("Tell") else "?")
    return Item("capital", "en", (), question, f"The capital of {country} is {city}.")


def _opposite(rng: random.Random, held_out: bool) -> Item:
    if rng.random() < 0.5:
        first, second = rng.sample(rng.choice(OPPOSITES_ZH), 2)
        form = rng.choice(["{}的反义词是什么", "“{}”的反义词是什么", "{}的反义词", "什么是{}的反义词"])
        return Item("opposite", "zh", (), _say_zh(rng, form.format(first), "？"), f"{first}的反义词是{second}。")
    first, second = rng.sample(rng.choice(OPPOSITES_EN), 2)
    form = rng.choice(["What is the opposite of {}", "What's the opposite of {}", "The opposite of {}"])
    question = _say_zh(rng, form.format(first), "?")
    return Item("opposite", "en", (), question, f"The opposite of {first} is {second}.")


def _colour(rng: random.Random, held_out: bool) -> Item:
    thing_zh, colour_zh, thing, colour = rng.choice(COLOURS)
    if rng.random() < 0.5:
        form = rng.choice(["{}是什么颜色", "{}是什么颜色的", "{}的颜色是什么"])
        return Item("colour", "zh", (), _say_zh(rng, form.format(thing_zh), "？"), f"{thing_zh}是{colour_zh}的。")
    form = rng.choice(["What colour is {}", "What color is {}", "Which colour is {}"])
    question = _say_zh(rng, form.format(thing), "?")
    return Item("colour", "en", (), question, f"{thing[0].upper()}{thing[1:]} is {colour}.")


def _unit(rng: random.Random, held_out: bool) -> Item:
    large_zh, small_zh, factor, one, many, small = rng.choice(UNITS)
    count = 1 if rng.random() < 0.5 else rng.randint(2, 9)
    if rng.random() < 0.5:
        form = rng.choice(["{}{}等于多少{}", "{}{}是多少{}", "{}{}有多少{}"])
        question = _say_zh(rng, form.format(count, large_zh, small_zh), "？")
        return Item("unit", "zh", (), question, f"{count}{large_zh}等于{count * factor}{small_zh}。")
    name = one if count == 1 else many
    question = _say_zh(rng, f"How many {small} are in {count} {name}", "?")
    return Item("unit", "en", (), question, f"{count} {name} is {count * factor} {small}.")


def _count(rng: random.Random, held_out: bool) -> Item:
    start, length = rng.randint(0, 30), rng.randint(3, 8)
    numbers = list(map(str, range(start, start + length)))
    after = rng.randint(0, 98)
    kind = rng.randrange(4)
    if kind == 0:
        question = _say_zh(rng, rng.choice(["从{}数到{}", "请从{}数到{}"]).format(numbers[0], numbers[-1]), "。")
        return Item("counting", "zh", (), question, "、".join(numbers) + "。")
    if kind == 1:
        question = _say_zh(rng, f"Count from {numbers[0]} to {numbers[-1]}", ".")
        return Item("counting", "en", (), question, ", ".join(numbers) + ".")
    if kind == 2:
        return Item("counting", "zh", (), _say_zh(rng, f"{after}后面是几", "？"), f"{after}后面是{after + 1}。")
    question = _say_zh(rng, f"What comes after {after}", "?")
    return Item("counting", "en", (), question, f"{after + 1} comes after {after}.")


def _talk(rng: random.Random, held_out: bool) -> Item:
    language, table = rng.choice([("zh", TALK_ZH), ("en", TALK_EN)])
    questions, answer = rng.choice(table)
    return Item("talk", language, (), rng.choice(questions), answer)


def _follow_up(rng: random.Random, held_out: bool) -> Item:
    """A second (or third) question that only makes sense after the first."""
    return rng.choice([_next_fact, _next_fact, _add_more, _name])(rng, held_out)


def _next_fact(rng: random.Random, held_out: bool) -> Item:
    maker = rng.choice([_capital, _opposite, _colour])
    while True:
        first, second = maker(rng, False), maker(rng, False)
        same_kind = first.answer[:12] == second.answer[:12] or first.language == "zh"
        asks_forward = "哪个国家" not in second.question and "哪国" not in second.question
        if first.language == second.language and same_kind and asks_forward and first.answer != second.answer:
            break
    history = [(first.question, first.answer)]
    if rng.random() < 0.3:
        greeting = rng.choice(TALK_ZH if first.language == "zh" else TALK_EN)
        history.insert(0, (rng.choice(greeting[0]), greeting[1]))
    topic = _topic(second)
    form = rng.choice(["那{}呢", "{}呢"] if first.language == "zh" else ["And {}", "What about {}"])
    mark = "？" if first.language == "zh" else "?"
    question = _say_zh(rng, form.format(topic), mark)
    return Item("follow-up", first.language, tuple(history), question, second.answer)


def _topic(item: Item) -> str:
    """What a question is about: the part of its answer that the follow-up names."""
    if item.language == "zh":
        return item.answer.split("的首都")[0].split("的反义词")[0].split("是")[0]
    if item.category == "capital":
        return item.answer.removeprefix("The capital of ").split(" is ")[0]
    if item.category == "opposite":
        return item.answer.removeprefix("The opposite of ").split(" is ")[0]
    subject = item.answer.split(" is ")[0]
    return subject[0].lower() + subject[1:]


def _add_more(rng: random.Random, held_out: bool) -> Item:
    while True:
        a, b = _pair(rng, False)
        c = rng.randint(1, 20)
        if a + b <= LARGEST and is_held_out(a + b, c) == held_out:
            break
    if rng.random() < 0.5:
        history = ((_say_zh(rng, f"{a}+{b}等于多少", "？"), f"{a}+{b}等于{a + b}。"),)
        return Item("follow-up", "zh", history, _say_zh(rng, f"再加{c}呢", "？"), f"{a + b}+{c}等于{a + b + c}。")
    history = ((_say_zh(rng, f"What is {a} plus {b}", "?"), f"{a} plus {b} is {a + b}."),)
    question = _say_zh(rng, f"And plus {c}", "?")
    return Item("follow-up", "en", history, question, f"{a + b} plus {c} is {a + b + c}.")


def _name(rng: random.Random, held_out: bool) -> Item:
    if rng.random() < 0.5:
        name = rng.choice(NAMES_ZH)
        history = [(_say_zh(rng, rng.choice(["我叫{}", "我是{}", "你好，我叫{}"]).format(name), "。"), f"你好，{name}！")]
        question, answer = rng.choice(["我叫什么名字？", "我是谁？", "我的名字是什么？"]), f"你叫{name}。"
        language = "zh"
    else:
        name = rng.choice(NAMES_EN)
        history = [(_say_zh(rng, rng.choice(["My name is {}", "I am {}", "Hello, I am {}"]).format(name), "."), f"Hello, {name}!")]
        question, answer = rng.choice(["What is my name?", "Who am I?"]), f"Your name is {name}."
        language = "en"
    if rng.random() < 0.4:
        between = _capital(rng, False)
        history.append((between.question, between.answer))
    return Item("follow-up", language, tuple(history), question, answer)


def _introduction(rng: random.Random, held_out: bool) -> Item:
    whole = _name(rng, held_out)
    return Item("talk", whole.language, (), *whole.history[0])


# maker, share of training, items in the test list
_MAKERS: list[tuple[Maker, float, int]] = [
    (_sum, 0.22, 80),
    (_difference, 0.20, 60),
    (_product, 0.05, 20),
    (_capital, 0.11, 60),
    (_opposite, 0.09, 50),
    (_colour, 0.05, 30),
    (_unit, 0.07, 30),
    (_count, 0.07, 30),
    (_talk, 0.03, 30),
    (_introduction, 0.01, 10),
    (_follow_up, 0.10, 60),
]
