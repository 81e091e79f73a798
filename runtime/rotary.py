"""Which pairs of a head turn with position, at which base speed, and how that is stretched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RotaryScaling:
    """How a checkpoint stretches its rotary frequencies to a longer context.

    ``original_context`` is in tokens. ``low_frequency_factor`` and ``high_frequency_factor`` serve
    llama3 alone; ``beta_fast``, ``beta_slow`` and ``attention_factor`` serve yarn alone, where None
    stands for the factor that the YaRN paper gives, 0.1 ln(factor) + 1. ``pair_factors`` serve
    factors alone: a divisor for each rotated pair, which GGUF files keep in ``rope_freqs.weight``.
    """

    kind: Literal["linear", "llama3", "yarn", "factors"]
    factor: float
    original_context: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    pair_factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rotary:
    """Which elements of a query or key are rotated, and how fast.

    The first ``dim`` elements of a head turn. ``pairing`` says which two turn together in the
    tensors as the source delivers them: ``halves`` i and i + dim / 2, ``neighbours`` 2i and 2i + 1,
    ``two_halves`` ChatGLM-6B's: each half of ``dim`` elements by ``halves`` and at the speeds of a
    head of dim / 2, the first by position and the second by block position.
    """

    pairing: Literal["halves", "neighbours", "two_halves"]
    dim: int
    base: float = 10000.0
    scaling: RotaryScaling | None = None
