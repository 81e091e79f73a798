"""Bias, penalties, min-p and log probabilities, against their definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.logits import adjusted, token_logprobs
from runtime.sampling import Sampling, choose
from scheduler.errors import UserInputError

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.5], np.float32)


def test_bias_makes_and_breaks_a_greedy_choice() -> None:
    assert choose(LOGITS, Sampling(logit_bias=((3, 100.0),)), 0) == 3
    assert choose(LOGITS, Sampling(logit_bias=((1, -100.0),)), 0) == 4
    assert LOGITS[3] == -1.0


@given(
    st.lists(st.integers(0, 4), max_size=20), st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)
)
def test_penalties_follow_the_published_formula(
    generated: list[int], presence: float, frequency: float
) -> None:
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    expected = [
        value - generated.count(token) * frequency - (token in generated) * presence
        for token, value in enumerate(LOGITS.tolist())
    ]
    np.testing.assert_allclose(adjusted(LOGITS, sampling, generated), expected, atol=1e-5)


def test_min_p_keeps_what_is_likely_enough() -> None:
    # Shares of the likeliest token: exp(-0.5) = 0.61, exp(-1) = 0.37, exp(-2) = 0.14, ...
    for min_p, kept in ((0.5, {1, 4}), (0.3, {1, 2, 4}), (1.0, {1})):
        sampling = Sampling(temperature=20.0, min_p=min_p)
        assert {choose(LOGITS, sampling, step) for step in range(300)} == kept


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40), st.integers(0, 50))
def test_log_probabilities_are_the_softmax(values: list[float], top: int) -> None:
    found = token_logprobs(np.array(values, np.float32), 0, top)
    total = math.fsum(math.exp(value) for value in values)
    assert found.logprob == pytest.approx(values[0] - math.log(total), abs=1e-6)
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    assert [token for token, _ in found.top] == order[:top]
    for token, logprob in found.top:
        assert logprob == pytest.approx(values[token] - math.log(total), abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"min_p": 1.5},
        {"min_p": math.nan},
        {"presence_penalty": 2.5},
        {"frequency_penalty": math.nan},
        {"logit_bias": ((0, 101.0),)},
        {"logit_bias": ((0, math.nan),)},
    ],
)
def test_values_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserInputError, match="expected"):
        Sampling(**bad)  # type: ignore[arg-type]
