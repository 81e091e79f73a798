"""Questions about facts, and small talk."""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.facts import (
    CAPITALS,
    COLOURS,
    OPPOSITES_EN,
    OPPOSITES_ZH,
    TALK_EN,
    TALK_ZH,
    UNITS,
)
from training.item import Item, ask


@dataclass(frozen=True)
class Subject:
    """Facts that are asked for in the same ways: what is asked about, and the answer to it."""

    category: str
    language: str
    forms: list[str]
    facts: list[tuple[str, str]]

    def question(self, rng: random.Random, fact: tuple[str, str]) -> Item:
        """One of the ways to ask for a fact."""
        topic, answer = fact
        return Item(
            self.category, self.language, ask(rng, rng.choice(self.forms).format(topic)), answer
        )


def _both_ways(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return pairs + [(second, first) for first, second in pairs]


CAPITAL_SUBJECTS = [
    Subject(
        "capital",
        "zh",
        [
            "{}的首都是哪里？",
            "{}的首都是哪个城市？",
            "{}的首都是什么？",
            "{}的首都在哪里？",
            "{}首都是哪里？",
            "请问{}的首都是哪里？",
            "告诉我{}的首都。",
            "{}的首都叫什么？",
        ],
        [(country, f"{country}的首都是{city}。") for country, city, _, _ in CAPITALS],
    ),
    Subject(
        "capital",
        "en",
        [
            "What is the capital of {}?",
            "What's the capital of {}?",
            "Tell me the capital of {}.",
            "Which city is the capital of {}?",
            "The capital of {}?",
            "Name the capital of {}.",
        ],
        [(country, f"The capital of {country} is {city}.") for _, _, country, city in CAPITALS],
    ),
]
COUNTRY_SUBJECTS = [
    Subject(
        "capital",
        "zh",
        ["{}是哪个国家的首都？", "{}是哪国的首都？", "哪个国家的首都是{}？"],
        [(city, f"{city}是{country}的首都。") for country, city, _, _ in CAPITALS],
    ),
    Subject(
        "capital",
        "en",
        ["Which country has the capital {}?", "{} is the capital of which country?"],
        [(city, f"{city} is the capital of {country}.") for _, _, country, city in CAPITALS],
    ),
]
OPPOSITE_SUBJECTS = [
    Subject(
        "opposite",
        "zh",
        [
            "{}的反义词是什么？",
            "“{}”的反义词是什么？",
            "{}的反义词？",
            "什么是{}的反义词？",
            "请说出{}的反义词。",
            "和{}相反的词是什么？",
        ],
        [(first, f"{first}的反义词是{second}。") for first, second in _both_ways(OPPOSITES_ZH)],
    ),
    Subject(
        "opposite",
        "en",
        [
            "What is the opposite of {}?",
            "What's the opposite of {}?",
            "The opposite of {}?",
            "Which word is the opposite of {}?",
            'What is the opposite of "{}"?',
        ],
        [(a, f"The opposite of {a} is {b}.") for a, b in _both_ways(OPPOSITES_EN)],
    ),
]
COLOUR_SUBJECTS = [
    Subject(
        "colour",
        "zh",
        ["{}是什么颜色？", "{}是什么颜色的？", "{}的颜色是什么？", "{}是哪种颜色？"],
        [(thing, f"{thing}是{colour}的。") for thing, colour, _, _ in COLOURS],
    ),
    Subject(
        "colour",
        "en",
        [
            "What colour is {}?",
            "What color is {}?",
            "Which colour is {}?",
            "Which color is {}?",
            "What is the colour of {}?",
            "What is the color of {}?",
        ],
        [(thing, f"{thing[0].upper()}{thing[1:]} is {colour}.") for _, _, thing, colour in COLOURS],
    ),
]


def capital(rng: random.Random) -> Item:
    """The capital of a country, sometimes the country of a capital."""
    return _fact(rng, COUNTRY_SUBJECTS if rng.random() < 0.2 else CAPITAL_SUBJECTS)


def opposite(rng: random.Random) -> Item:
    """The opposite of a word."""
    return _fact(rng, OPPOSITE_SUBJECTS)


def colour(rng: random.Random) -> Item:
    """The colour of a thing."""
    return _fact(rng, COLOUR_SUBJECTS)


def unit(rng: random.Random) -> Item:
    """How many small units make one to nine large ones."""
    large_zh, small_zh, factor, one, many, small = rng.choice(UNITS)
    count = 1 if rng.random() < 0.5 else rng.randint(2, 9)
    if rng.random() < 0.5:
        text = rng.choice(["{}{}等于多少{}？", "{}{}是多少{}？", "{}{}有多少{}？"])
        question = ask(rng, text.format(count, large_zh, small_zh))
        return Item("unit", "zh", question, f"{count}{large_zh}等于{count * factor}{small_zh}。")
    name, verb = (one, "is") if count == 1 else (many, "are")
    text = rng.choice(["How many {} are in {} {}?", "How many {} are there in {} {}?"])
    question = ask(rng, text.format(small, count, name))
    return Item("unit", "en", question, f"{count} {name} {verb} {count * factor} {small}.")


def talk(rng: random.Random) -> Item:
    """Greetings, thanks, and who the model is."""
    language, table = rng.choice([("zh", TALK_ZH), ("en", TALK_EN)])
    questions, answer = rng.choice(table)
    return Item("talk", language, rng.choice(questions), answer)


def _fact(rng: random.Random, subjects: list[Subject]) -> Item:
    subject = rng.choice(subjects)
    return subject.question(rng, rng.choice(subject.facts))
