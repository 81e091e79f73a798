"""Which tensors a decoder must have, held against the planner's own count of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from runtime.export.decoder_config import DecoderConfig
from runtime.export.weight_source import Array, expected_shapes, require_tensors
from runtime.rotary import Rotary
from scheduler.errors import CheckpointError
from scheduler.model import total_parameters
from scheduler.profiles import load_model


@dataclass
class ShapesOnly:
    shapes: dict[str, tuple[int, ...]]

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.shapes.get(name)

    def tensor(self, name: str) -> Array:
        return np.zeros(self.shapes[name], np.float32)

    def rows(self, name: str, start: int, stop: int) -> Array:
        return self.tensor(name)[start:stop]


def config_of_profile(name: str) -> DecoderConfig:
    spec = load_model(name)
    return DecoderConfig(
        name=spec.name,
        family=spec.family,
        hidden_size=spec.hidden_size,
        ffn_size=spec.ffn_size,
        blocks=spec.blocks,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        max_context=spec.max_context,
        norm=spec.norm,
        norm_epsilon=1e-5,
        activation="silu" if spec.gated_mlp else "gelu",
        gated_mlp=spec.gated_mlp,
        rotary=Rotary("halves", spec.head_dim),
        stop_ids=(2,),
        qkv_bias=spec.qkv_bias,
        attention_output_bias=spec.attention_output_bias,
        mlp_bias=spec.mlp_bias,
        qk_norm=spec.qk_norm,
        tied_embeddings=spec.tied_embeddings,
    )


@pytest.mark.parametrize(
    "name",
    [
        "chatglm-6b",
        "chatglm2-6b",
        "glm-4-9b-chat",
        "llama-3.1-8b",
        "mistral-7b",
        "qwen2.5-7b",
        "qwen3-8b",
        "smollm2-135m",
    ],
)
def test_expected_tensors_hold_all_parameters_of_the_model(name: str) -> None:
    shapes = expected_shapes(config_of_profile(name))
    assert sum(math.prod(shape) for shape in shapes.values()) == total_parameters(load_model(name))


def test_a_complete_source_passes() -> None:
    config = config_of_profile("qwen3-8b")
    require_tensors(ShapesOnly(expected_shapes(config)), config, "there")


def test_a_missing_tensor_is_named() -> None:
    config = config_of_profile("qwen3-8b")
    shapes = expected_shapes(replace(config, qk_norm=False))
    with pytest.raises(CheckpointError, match=r"^there lacks blocks\.0\.q_norm\.weight"):
        require_tensors(ShapesOnly(shapes), config, "there")


def test_a_wrong_shape_is_named() -> None:
    config = config_of_profile("qwen3-8b")
    shapes = expected_shapes(config) | {"blocks.3.key.weight": (4096, 4096)}
    with pytest.raises(CheckpointError, match=r"blocks\.3\.key\.weight of shape \[4096, 4096\]"):
        require_tensors(ShapesOnly(shapes), config, "there")
