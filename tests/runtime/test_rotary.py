"""Rotary speeds against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.rotary import Rotary, RotaryScaling
from runtime.rotary_speeds import rotary_speeds

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "linear": ({"factor": 4.0}, RotaryScaling("linear", 4.0, 8192)),
    "llama3": (LLAMA3, RotaryScaling("llama3", 8.0, 8192, 1.0, 4.0)),
    "yarn": ({"factor": 4.0}, RotaryScaling("yarn", 4.0, 8192)),
}


def test_unscaled_speeds_are_powers_of_the_base():
    speeds, factor = rotary_speeds(Rotary("halves", 8, base=10000.0))
    np.testing.assert_allclose(speeds, [1, 0.1, 0.01, 0.001], rtol=1e-15)
    assert factor == 1


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("kind", CASES)
def test_scaled_speeds_are_those_of_transformers(kind, base):
    pytest.importorskip("torch", reason="needs PyTorch")
    pytest.importorskip("transformers", reason="needs transformers")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    keys, scaling = CASES[kind]
    parameters = {"rope_type": kind, "rope_theta": base, **keys}
    if kind != "linear":
        parameters["original_max_position_embeddings"] = 8192
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=32768,
        rope_parameters=parameters,
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
    speeds, factor = rotary_speeds(Rotary("halves", 128, base, scaling))
    np.testing.assert_allclose(speeds, expected.numpy(), rtol=2e-6)
    assert factor == pytest.approx(expected_factor)
