"""How fast each pair of a head turns with position, as published decoders stretch it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from runtime.rotary import Rotary, RotaryScaling

DoubleArray = npt.NDArray[np.float64]


def rotary_speeds(rotary: Rotary) -> tuple[DoubleArray, float]:
    """Radians per position of each pair, [dim / 2], and the factor of cosines and sines.

    Of ChatGLM-6B's two halves, which are alike, one is given: [dim / 4].

    Llama 3's scaling keeps fast pairs, slows slow ones by the factor and blends between
    (transformers' ``llama3``); YaRN blends by index (Peng et al. 2023, sections 3.2 and 3.4).
    """
    dim, scaling = rotary.dim, rotary.scaling
    if rotary.pairing == "two_halves":
        dim //= 2
    speeds: DoubleArray = rotary.base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if scaling is None:
        return speeds, 1.0
    if scaling.kind == "linear":
        return speeds / scaling.factor, 1.0
    if scaling.kind == "factors":
        return speeds / np.array(scaling.pair_factors), 1.0
    if scaling.kind == "llama3":
        return _blend(speeds, scaling.factor, _llama3_kept(speeds, scaling)), 1.0
    factor = scaling.attention_factor
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return _blend(speeds, scaling.factor, _yarn_kept(rotary, scaling)), factor


def _blend(speeds: DoubleArray, factor: float, kept: DoubleArray) -> DoubleArray:
    return speeds * kept + speeds / factor * (1 - kept)


def _llama3_kept(speeds: DoubleArray, scaling: RotaryScaling) -> DoubleArray:
    turns = scaling.original_context * speeds / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return np.clip((turns - low) / (high - low), 0.0, 1.0)


def _yarn_kept(rotary: Rotary, scaling: RotaryScaling) -> DoubleArray:
    def index_that_turns(times: float) -> float:
        ratio = scaling.original_context / (times * 2 * math.pi)
        return rotary.dim * math.log(ratio) / (2 * math.log(rotary.base))

    first = max(math.floor(index_that_turns(scaling.beta_fast)), 0)
    last = min(math.ceil(index_that_turns(scaling.beta_slow)), rotary.dim - 1)
    width = last - first or 0.001  # transformers' guard against a division by zero
    return 1 - np.clip((np.arange(rotary.dim // 2) - first) / width, 0.0, 1.0)
