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


def sorted_choice(logits: np.ndarray, sampling: Sampling, step: int) -> int:
    """The rules as they are written down, over a whole vocabulary in order."""
    order = np.lexsort((np.arange(len(logits)), -logits))[: sampling.top_k or None]
    wide = logits.astype(np.float64)
    if sampling.top_p < 1:
        order = order[: np.searchsorted(np.cumsum(probabilities(wide[order])), sampling.top_p) + 1]
    shares = probabilities(wide[order])
    order = order[shares >= sampling.min_p * shares[0]]
    mass = np.cumsum(probabilities((logits[order] / sampling.temperature).astype(np.float64)))
    return int(
        order[min(np.searchsorted(mass, uniform(sampling.seed, step), "right"), len(order) - 1)]
    )


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([5, 1000, 1025, 40000]),
    flatness=st.sampled_from([0.2, 1.0, 4.0]),
    temperature=st.sampled_from([0.3, 1.0, 30.0]),
    top_k=st.sampled_from([0, 1, 40, 3000]),
    top_p=st.sampled_from([1.0, 0.95, 0.4]),
    min_p=st.sampled_from([0.0, 0.05]),
)
def test_sorting_few_tokens_draws_what_sorting_all_would(
    seed: int,
    size: int,
    flatness: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(size) * flatness).round(2).astype(np.float32)  # with ties
    sampling = Sampling(temperature, top_k, top_p, seed, min_p)
    assert choose(logits, sampling, 7) == sorted_choice(logits, sampling, 7)
