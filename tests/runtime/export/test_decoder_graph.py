"""Decoder blocks converted by the real converter and run by the real MNN, against NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Event

import numpy as np
import pytest

from runtime.export.converter import convert
from runtime.export.decoder_config import DecoderConfig
from runtime.export.decoder_graph import write_decoder_block
from runtime.export.request import Encoding
from runtime.export.weight_source import expected_shapes
from runtime.rotary import Rotary
from runtime.step_inputs import Row, attention_mask
from scheduler.errors import CheckpointError
from tests.reference import decoder_numpy as reference
from tests.support.mnn_part import MnnPart

LLAMA = DecoderConfig(
    name="small",
    family="llama",
    hidden_size=64,
    ffn_size=96,
    blocks=1,
    heads=4,
    kv_heads=2,
    head_dim=32,
    vocab_size=16,
    max_context=64,
    norm="rms",
    norm_epsilon=1e-5,
    activation="silu",
    gated_mlp=True,
    rotary=Rotary("halves", 32),
    stop_ids=(2,),
)
CONFIGS = {
    "llama": LLAMA,
    "one key head for all": replace(LLAMA, kv_heads=1),
    "a key head for each": replace(LLAMA, kv_heads=4),
    "qwen2": replace(LLAMA, qkv_bias=True, rotary=Rotary("halves", 32, base=1e6)),
    "qwen3": replace(LLAMA, qk_norm=True, norm_epsilon=1e-6),
    "glm-4": replace(LLAMA, qkv_bias=True, rotary=Rotary("neighbours", 16)),
    "glm4": replace(LLAMA, qkv_bias=True, sandwich_norms=True, rotary=Rotary("neighbours", 16)),
    "every bias": replace(
        LLAMA,
        qkv_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        qk_norm=True,
        rotary=Rotary("neighbours", 32),
    ),
}


@dataclass
class RandomWeights:
    tensors: dict[str, np.ndarray]

    def shape(self, name):
        return self.tensors[name].shape if name in self.tensors else None

    def tensor(self, name):
        return self.tensors[name]

    def rows(self, name, start, stop):
        return self.tensors[name][start:stop]


def random_weights(config):
    random = np.random.default_rng(7)
    return RandomWeights(
        {
            name: random.normal(1 if "norm" in name else 0, 0.2, shape).astype(np.float32)
            for name, shape in expected_shapes(config).items()
        }
    )


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory):
    config = CONFIGS[request.param]
    folder = tmp_path_factory.mktemp("decoder")
    source = random_weights(config)
    write_decoder_block(folder / "block.onnx", source, config, 0)
    convert(folder / "block.onnx", folder / "block.mnn", Encoding("fp32"), 1, Event())
    inputs = ["x", "mask", "cos", "sin", "past_k", "past_v"]
    return config, source, MnnPart(folder / "block.mnn", inputs, ["y", "new_k", "new_v"])


def run(model, x, cached, past_k, past_v):
    """Run ``x`` [rows, tokens, hidden] behind ``cached`` tokens of each row."""
    config, _, part = model
    tokens, dim = x.shape[1], config.rotary.dim
    position = np.array(cached)[:, None] + np.arange(tokens)
    angle = position[..., None] * config.rotary.base ** (-np.arange(0, dim, 2) / dim)
    mask = attention_mask([Row(one, 0, 0) for one in cached], tokens, past_k.shape[-1])
    return part(
        x=x,
        mask=mask,
        cos=np.cos(angle)[:, None],
        sin=np.sin(angle)[:, None],
        past_k=past_k,
        past_v=past_v,
    )


def empty(config, rows, slots):
    heads, dim = config.kv_heads, config.head_dim
    k, v = np.zeros((rows, heads, dim, slots)), np.zeros((rows, heads, slots, dim))
    return k.astype(np.float32), v.astype(np.float32)


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_prefill_then_decode_of_rows_of_different_lengths(model):
    config, source, _ = model
    lengths, slots = (3, 7, 5), 12
    random = np.random.default_rng(1)
    texts = [random.normal(size=(n + 2, config.hidden_size)).astype(np.float32) for n in lengths]
    past_k, past_v = empty(config, 3, slots)
    expected = [reference.block(x.astype(float), source.tensors, config, 0) for x in texts]
    for row, (x, length) in enumerate(zip(texts, lengths, strict=True)):
        found = run(model, x[None, :length], (0,), *empty(config, 1, 0))
        assert error(found["y"][0], expected[row][:length]) < 1e-5
        past_k[row, :, :, :length] = found["new_k"][0]
        past_v[row, :, :length] = found["new_v"][0]
    for step in range(2):
        at = [length + step for length in lengths]
        x = np.stack([text[n : n + 1] for text, n in zip(texts, at, strict=True)])
        found = run(model, x, at, past_k, past_v)
        assert (
            error(found["y"][:, 0], np.stack([y[n] for y, n in zip(expected, at, strict=True)]))
            < 1e-5
        )
        for row, n in enumerate(at):
            past_k[row, :, :, n] = found["new_k"][row, :, :, 0]
            past_v[row, :, n] = found["new_v"][row, :, 0]


def test_a_block_of_another_form_is_refused(tmp_path):
    config = replace(LLAMA, activation="gelu")
    with pytest.raises(CheckpointError, match=r"^small has blocks of another form"):
        write_decoder_block(tmp_path / "block.onnx", random_weights(config), config, 0)
