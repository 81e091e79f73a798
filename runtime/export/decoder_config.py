"""Every hyper-parameter of a dense decoder, whatever file format it was read from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ValidationError

from runtime.bundle_spec import spec_of_geometry
from runtime.geometry import Geometry
from runtime.rotary import Rotary
from scheduler.errors import CheckpointError
from scheduler.model import ModelSpec
from scheduler.strict_json import validation_sentence


@dataclass(frozen=True)
class DecoderConfig:
    """A dense decoder; sizes in elements, ``max_context`` and ``sliding_window`` in tokens.

    ``family`` is a name that `scheduler.hf_families` lists. ``residual`` scaled is ChatGLM-6B's.
    ``mask`` prefix lets all tokens of the prompt but its last see each other. ``stop_ids`` are the
    tokens that end an answer. ``sandwich_norms`` are further norms behind attention and MLP, before
    the residual is added.
    """

    name: str
    family: str
    hidden_size: int
    ffn_size: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    norm: Literal["layer", "rms"]
    norm_epsilon: float
    activation: Literal["gelu", "silu"]
    gated_mlp: bool
    rotary: Rotary
    stop_ids: tuple[int, ...]
    mask: Literal["prefix", "causal"] = "causal"
    residual: Literal["plain", "scaled"] = "plain"
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    tied_embeddings: bool = False
    sliding_window: int | None = None


def spec_of(config: DecoderConfig) -> ModelSpec:
    """The decoder as the planner counts it; raises as `geometry_of`."""
    spec = spec_of_geometry(config.name, geometry_of(config))
    return replace(spec, tied_embeddings=config.tied_embeddings)


def geometry_of(config: DecoderConfig) -> Geometry:
    """What the manifest of this decoder's bundle states.

    Raises CheckpointError for sizes that no bundle may have.
    """
    try:
        return _geometry(config)
    except ValidationError as error:
        raise CheckpointError(
            f"{config.name} is out of what a bundle can describe: {validation_sentence(error)}."
        ) from error


def _geometry(config: DecoderConfig) -> Geometry:
    window = config.sliding_window
    return Geometry(
        family=config.family,
        hidden_size=config.hidden_size,
        ffn_size=config.ffn_size,
        blocks=config.blocks,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_context=config.max_context,
        layernorm_epsilon=config.norm_epsilon,
        norm=config.norm,
        norms_per_block=4 if config.sandwich_norms else 2,
        activation=config.activation,
        gated_mlp=config.gated_mlp,
        residual=config.residual,
        qkv_bias=config.qkv_bias,
        attention_output_bias=config.attention_output_bias,
        mlp_bias=config.mlp_bias,
        qk_norm=config.qk_norm,
        mask=config.mask,
        rotary=config.rotary,
        sliding_window=window if window == config.max_context else None,
    )
