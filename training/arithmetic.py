"""Sums, differences, the times table and counting."""

from __future__ import annotations

import random

from training.item import Item, ask

LARGEST = 99  # operands of sums and differences

_BARE = ["{a}{s}{b}=", "{a}{s}{b}=?", "{a} {s} {b} =", "{a} {s} {b} = ?", "{a}{s}{b}"]
_CHINESE = ["{a}{s}{b}等于多少？", "{a}{s}{b}等于几？", "{a}{s}{b}是多少？", "计算{a}{s}{b}。"]
_CHINESE += ["{a}{word}{b}等于多少？", "{a}{word}{b}等于几？", "算一下{a}{word}{b}。"]
_ENGLISH = ["What is {a} {word} {b}?", "What's {a} {word} {b}?", "How much is {a} {word} {b}?"]
_ENGLISH += ["What is {a} {s} {b}?", "What is {a}{s}{b}?", "Calculate {a} {s} {b}."]
_ADD = ["Add {a} and {b}."]
_SUBTRACT = ["Subtract {b} from {a}."]
_TIMES_ZH = [
    "{}乘{}等于多少？",
    "{}乘以{}等于几？",
    "{}乘以{}等于多少？",
    "{}×{}等于多少？",
    "{}*{}等于几？",
]
_TIMES_EN = ["What is {} times {}?", "How much is {} times {}?", "What is {} * {}?"]
_TIMES_EN += ["Multiply {} by {}."]

# question, answer and distance of the neighbour that is asked for
_NEIGHBOURS_ZH = [
    (["{}后面是几？", "{}后面的数是几？", "{}的后面是多少？"], "{}后面是{}。", 1),
    (["{}前面是几？", "{}前面的数是几？", "{}的前面是多少？"], "{}前面是{}。", -1),
]
_NEIGHBOURS_EN = [
    (["What comes after {}?", "Which number comes after {}?"], "After {} comes {}.", 1),
    (["What comes before {}?", "Which number comes before {}?"], "Before {} comes {}.", -1),
]


def two_numbers(rng: random.Random) -> tuple[int, int]:
    """Operands up to LARGEST, small ones more often."""
    largest = LARGEST if rng.random() < 0.65 else 20
    return rng.randint(0, largest), rng.randint(0, largest)


def addition(rng: random.Random) -> Item:
    """A sum of two numbers up to 99."""
    a, b = two_numbers(rng)
    return calculation(rng, a, b)


def subtraction(rng: random.Random) -> Item:
    """A difference, sometimes a negative one."""
    a, b = two_numbers(rng)
    if rng.random() < 0.85:
        a, b = max(a, b), min(a, b)
    return calculation(rng, a, -b)


def calculation(rng: random.Random, a: int, change: int) -> Item:
    """`a` plus `change`, or minus its size where it is negative."""
    category = "subtraction" if change < 0 else "addition"
    sign, chinese, english = ("-", "减", "minus") if change < 0 else ("+", "加", "plus")
    if change == 0 and rng.random() < 0.5:
        category, sign, chinese, english = "subtraction", "-", "减", "minus"
    kind = rng.random()
    if kind < 0.16:
        language, forms, word = "none", _BARE, ""
        answer = f"{a}{sign}{abs(change)}={a + change}"
    elif kind < 0.58:
        language, forms, word = "zh", _CHINESE, chinese
        answer = f"{a}{sign}{abs(change)}等于{a + change}。"
    else:
        language, word = "en", english
        forms = _ENGLISH + (_ADD if sign == "+" else _SUBTRACT)
        answer = f"{a} {word} {abs(change)} is {a + change}."
    text = rng.choice(forms).format(a=a, b=abs(change), s=sign, word=word)
    question = text if language == "none" else ask(rng, text)
    return Item(category, language, question, answer, operands=(a, abs(change)))


def times_table(rng: random.Random) -> Item:
    """A product of two one-digit numbers: learned by heart, as at school."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    kind = rng.random()
    if kind < 0.15:
        sign = rng.choice(["*", "×"])
        return Item("times table", "none", f"{a}{sign}{b}=", f"{a}{sign}{b}={a * b}")
    if kind < 0.6:
        question = ask(rng, rng.choice(_TIMES_ZH).format(a, b))
        return Item("times table", "zh", question, f"{a}乘{b}等于{a * b}。")
    question = ask(rng, rng.choice(_TIMES_EN).format(a, b))
    return Item("times table", "en", question, f"{a} times {b} is {a * b}.")


def counting(rng: random.Random) -> Item:
    """Counting from one number to another, or naming a neighbour."""
    language = rng.choice(["zh", "en"])
    if rng.random() < 0.6:
        middle = rng.randint(1, 98)
        table = _NEIGHBOURS_ZH if language == "zh" else _NEIGHBOURS_EN
        forms, answer, distance = rng.choice(table)
        question = ask(rng, rng.choice(forms).format(middle))
        return Item("counting", language, question, answer.format(middle, middle + distance))
    start, length = rng.randint(0, 40), rng.randint(3, 8)
    numbers = [str(number) for number in range(start, start + length)]
    if language == "zh":
        forms, answer = ["从{}数到{}。", "请从{}数到{}。"], "、".join(numbers) + "。"
    else:
        forms, answer = (
            ["Count from {} to {}.", "Please count from {} to {}."],
            ", ".join(numbers) + ".",
        )
    question = ask(rng, rng.choice(forms).format(numbers[0], numbers[-1]))
    return Item("counting", language, question, answer)
