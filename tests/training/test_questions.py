"""The generator of questions: right answers, nothing held out in training, always the same list."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.answer_text import postprocess
from runtime.prompt import build_prompt
from training.held_out import is_held_out, is_pair_held_out
from training.item import FOLLOW_UP, MARKS, Item
from training.questions import exam_items, training_item, write_exam

TEST_LIST = Path(__file__).parents[1] / "data" / "tiny_glm_questions.jsonl"
SAMPLES = 20_000
HEADLINES = [
    "法国的首都是哪里？",
    "What is the capital of France?",
    "12+7等于多少？",
    "你好",
    "Hello",
]


@pytest.fixture(scope="module")
def stream():
    rng = random.Random(1)
    return [training_item(rng) for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def exam():
    return exam_items()


def texts_of(item):
    return [*(text for past in item.history for text in past), item.question, item.answer]


def calculations_in(text):
    """Pairs of every sum or difference that a text states, whatever the generator noted."""
    found = re.findall(r"(\d+) ?(?:[+\-]|plus|minus|加|减) ?(\d+)", text)
    found += re.findall(r"[Aa]dd (\d+) and (\d+)", text)
    found += re.findall(r"[Ss]ubtract (\d+) from (\d+)", text)
    return [(int(a), int(b)) for a, b in found]


def test_no_held_out_pair_occurs_anywhere_in_the_training_stream(stream):
    """Read from the texts themselves, in both orders, follow-ups and earlier rounds included."""
    pairs = [pair for item in stream for text in texts_of(item) for pair in calculations_in(text)]
    assert len(pairs) > SAMPLES
    assert not [pair for pair in pairs if is_pair_held_out(*pair)]


def test_no_wording_of_the_list_occurs_in_the_training_stream(stream, exam):
    """Not even as an earlier round, or after other rounds, or with other marks and capitals."""

    def wording(question):
        return question.split("\n")[-1].rstrip(MARKS).lower()

    trained = {
        wording(one.question)
        for item in stream
        for one in [*item.context, item]
        if one.kind not in {"talk", FOLLOW_UP}
    }
    asked = {wording(item.question) for item in exam if item.kind not in {"talk", FOLLOW_UP}}
    assert len(asked) > 300
    assert not trained & asked


@settings(deadline=None)
@given(a=st.integers(0, 99), b=st.integers(0, 99))
def test_pairs_are_held_out_in_both_orders(a, b):
    assert is_pair_held_out(a, b) == is_pair_held_out(b, a)


def test_a_fair_share_of_pairs_is_held_out():
    pairs = [(a, b) for a in range(100) for b in range(a, 100)]
    assert 0.05 < sum(is_pair_held_out(*pair) for pair in pairs) / len(pairs) < 0.07


def test_every_answer_is_arithmetically_right(stream, exam):
    checked = 0
    for item in [*stream, *exam]:
        for text in [item.answer, *(answer for _, answer in item.history)]:
            stated = re.search(
                r"^(\d+) ?(\+|-|×|\*|plus|minus|times|乘) ?(\d+)(?:=|等于| is )(-?\d+)", text
            )
            if stated is None:
                continue
            a, sign, b, result = stated.groups()
            sums = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
            names = {"plus": "+", "minus": "-", "times": "*", "乘": "*", "×": "*"}
            assert sums[names.get(sign, sign)] == int(result), text
            checked += 1
    assert checked > SAMPLES / 2


def test_a_sum_s_answer_is_about_the_numbers_asked(stream):
    for item in stream:
        if item.category in {"addition", "subtraction"}:
            asked = sorted(re.findall(r"\d+", item.question))
            stated = re.findall(r"\d+", item.answer)[:2]
            assert asked == sorted(stated), item


def test_follow_up_sums_continue_from_the_last_result(stream):
    checked = 0
    for item in stream:
        if item.category != FOLLOW_UP or not item.operands:
            continue
        last_result = re.findall(r"\d+", item.history[-1][1])[-1]
        change = re.findall(r"\d+", item.question)[-1]
        assert re.findall(r"\d+", item.answer)[:2] == [last_result, change]
        checked += 1
    assert checked > 100


def test_one_question_has_one_answer(stream, exam):
    answers = {}
    for item in [*stream, *exam]:
        key = build_prompt(item.history, item.question.rstrip(MARKS).lower())
        assert answers.setdefault(key, item.answer) == item.answer, item


def test_answers_are_as_postprocessing_leaves_them(stream, exam):
    assert all(postprocess(item.answer) == item.answer for item in [*stream, *exam])


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_items(seed):
    first, second = random.Random(seed), random.Random(seed)
    assert [training_item(first) for _ in range(5)] == [training_item(second) for _ in range(5)]


def test_the_list_holds_every_category_in_both_languages(exam):
    assert 380 <= len(exam) <= 480
    assert len({build_prompt(item.history, item.question) for item in exam}) == len(exam)
    assert {item.language for item in exam} >= {"zh", "en"}
    assert all(is_held_out(item) for item in exam if item.kind != "talk")
    sums = [item.operands for item in exam if item.operands]
    assert len(sums) >= 150
    assert all(is_pair_held_out(*pair) for pair in sums)
    assert len([item for item in exam if item.history]) >= 60


def test_the_committed_list_is_what_the_script_writes(tmp_path):
    written = tmp_path / "list.jsonl"
    write_exam(written)
    assert TEST_LIST.read_text(encoding="utf-8") == written.read_text(encoding="utf-8")


def test_lines_of_the_list_have_the_fields_that_others_read(exam):
    for item in exam:
        line = json.loads(json.dumps(item.json()))
        assert list(line) == ["category", "language", "history", "question", "answer"]
        assert [tuple(past) for past in line["history"]] == item.history


@pytest.mark.parametrize("question", HEADLINES)
def test_the_examples_of_the_readme_may_be_trained(question):
    """They must work for everyone, whatever the luck of what is held out."""
    kind, operands = ("addition", (12, 7)) if "12" in question else ("", None)
    kind = "talk" if question in {"你好", "Hello"} else kind
    assert not is_held_out(Item(kind, "", question, "", operands))
