"""Sampling against probabilities computed independently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling import Sampling, choose, uniform
from scheduler.errors import UserInputError

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.5], np.float32)


def draws(sampling: dict[str, float], count: int = 4000) -> np.ndarray:
    picked = [
        choose(LOGITS, Sampling(seed=11, **sampling), step)  # type: ignore[arg-type]
        for step in range(count)
    ]
    return np.bincount(picked, minlength=len(LOGITS)) / count


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_greedy_takes_the_largest() -> None:
    assert choose(LOGITS, Sampling(), 0) == 1


def test_frequencies_follow_the_softmax() -> None:
    assert np.abs(draws({"temperature": 1.0}) - probabilities(LOGITS)).max() < 0.03
    assert np.abs(draws({"temperature": 2.0}) - probabilities(LOGITS / 2)).max() < 0.03


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert set(np.flatnonzero(draws({"temperature": 5.0, "top_k": 2}, 500))) == {1, 4}
    # Sorted probabilities are 0.46, 0.28, 0.17, ...: 0.5 needs two, since the first alone is short.
    assert set(np.flatnonzero(draws({"temperature": 5.0, "top_p": 0.5}, 500))) == {1, 4}
    assert set(np.flatnonzero(draws({"temperature": 5.0, "top_p": 0.4}, 200))) == {1}


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_a_random_number_depends_on_seed_and_step_alone(seed: int, step: int) -> None:
    value = uniform(seed, step)
    assert 0.0 <= value < 1.0
    assert value == uniform(seed, step)


def test_neighbouring_steps_are_not_shifted_copies() -> None:
    values = [uniform(5, step) for step in range(64)]
    assert len(set(values)) == 64


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserInputError, match="expected"):
        Sampling(**bad)  # type: ignore[arg-type]
