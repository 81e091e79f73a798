"""Choose the next token from logits: greedy, or sampled after penalties, filters, temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.logits import adjusted
from scheduler.errors import UserInputError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy.

    Bias and penalties change the logits first (`runtime.logits`), then filters run in llama.cpp's
    order: top-k, top-p, min-p, temperature. `top_logprobs` asks for log probabilities: of the
    chosen token and of that many likeliest ones. Raises UserInputError for values outside their
    range.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    seed: int = 0
    min_p: float = 0.0  # 0: off; else the least share of the likeliest token's probability
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, what is added to its logit
    top_logprobs: int | None = None  # None: no log probabilities

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise UserInputError(f"temperature is {self.temperature}; expected 0 (greedy) to 100.")
        if self.top_k < 0:
            raise UserInputError(f"top-k is {self.top_k}; expected 0 (off) or more.")
        if not 0.0 < self.top_p <= 1.0:
            raise UserInputError(
                f"top-p is {self.top_p}; expected more than 0 and at most 1 (off)."
            )
        if not 0 <= self.seed < 1 << 64:
            raise UserInputError(f"seed is {self.seed}; expected 0 to 2**64 - 1.")
        if not 0.0 <= self.min_p <= 1.0:
            raise UserInputError(f"min-p is {self.min_p}; expected 0 (off) to 1.")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2.0 <= getattr(self, name) <= 2.0:
                raise UserInputError(f"{name} is {getattr(self, name)}; expected -2 to 2.")
        for token, bias in self.logit_bias:
            if not -100.0 <= bias <= 100.0:
                raise UserInputError(
                    f"logit_bias of token {token} is {bias}; expected -100 to 100."
                )


_FIRST_SORTED = 1024  # of a vocabulary; more only where the draw needs them


def uniform(seed: int, step: int) -> float:
    """The random number in [0, 1) of token `step`: a function of both, so a replay repeats it."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=step)).random())


def choose(
    logits: npt.NDArray[np.float32], sampling: Sampling, step: int, generated: Sequence[int] = ()
) -> int:
    """The next token id from logits [vocab_size]; `step` counts this request's tokens.

    `generated` holds the answer's tokens so far, which penalties look at.
    """
    logits = adjusted(logits, sampling, generated)
    if sampling.temperature == 0.0:
        return int(np.argmax(logits))
    total = len(logits) if sampling.top_k == 0 else min(sampling.top_k, len(logits))
    count = min(total, _FIRST_SORTED) if sampling.top_k == 0 else total
    while True:
        token = _drawn(logits, _likeliest(logits, count), sampling, step, whole=count == total)
        if token is not None:
            return token
        count = min(total, 16 * count)


def _likeliest(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """The tokens with the largest logits, largest first; the lower id first among equals."""
    if count < len(logits):
        least = np.partition(logits, len(logits) - count)[len(logits) - count]
        above = np.flatnonzero(logits > least)
        equal = np.flatnonzero(logits == least)
        candidates = np.concatenate([above, equal[: count - len(above)]])
    else:
        candidates = np.arange(count)
    return candidates[np.lexsort((candidates, -logits[candidates]))]


def _drawn(
    logits: npt.NDArray[np.float32],
    candidates: npt.NDArray[np.intp],
    sampling: Sampling,
    step: int,
    *,
    whole: bool,
) -> int | None:
    """Draw among sorted candidates; None where the draw may lie beyond them.

    With `whole` there are no others; else they are the likeliest of all tokens.
    """
    top = float(logits[candidates[0]])
    if sampling.top_p < 1.0:
        weights = _weights(logits[candidates], top)
        total = weights.sum() if whole else _weights(logits, top).sum()
        mass = np.cumsum(weights / total)
        kept = int(np.searchsorted(mass, sampling.top_p)) + 1
        if kept > len(candidates) and not whole:
            return None
        candidates, whole = candidates[:kept], True
    if sampling.min_p > 0.0:
        shares = _weights(logits[candidates], top)
        kept = int(np.count_nonzero(shares >= sampling.min_p))
        if kept == len(candidates) and not whole:
            return None
        candidates, whole = candidates[:kept], True
    heat = sampling.temperature
    mass = np.cumsum(_weights(logits[candidates] / heat, top / heat))
    total = mass[-1] if whole else _weights(logits / heat, top / heat).sum()
    drawn = int(np.searchsorted(mass, uniform(sampling.seed, step) * total, side="right"))
    if drawn >= len(candidates) and not whole:
        return None
    return int(candidates[min(drawn, len(candidates) - 1)])


def _weights(logits: npt.NDArray[np.float32], top: float) -> npt.NDArray[np.float64]:
    """Probabilities over that of the likeliest token."""
    return np.asarray(np.exp(logits.astype(np.float64) - top))
