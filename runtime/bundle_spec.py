"""What the planner sees of a bundle, and what a bundle states of a ModelSpec: its geometry."""

from __future__ import annotations

from dataclasses import replace

from runtime.bundle import Bundle
from runtime.geometry import Geometry
from scheduler.model import ModelSpec, ReserveRule
from scheduler.profiles import load_model, model_names


def spec_of_bundle(bundle: Bundle) -> ModelSpec:
    """The ModelSpec of a bundle; a profile of the same name and geometry adds its reserve rule."""
    spec = spec_of_geometry(bundle.manifest.model, bundle.manifest.geometry)
    return replace(spec, reserve_rule=_published_rule(spec))


def spec_of_geometry(name: str, geometry: Geometry) -> ModelSpec:
    """The ModelSpec of a decoder of this geometry, whose lm_head is a part of its own."""
    return ModelSpec(
        name=name,
        family=geometry.family,
        hidden_size=geometry.hidden_size,
        ffn_size=geometry.ffn_size,
        blocks=geometry.blocks,
        heads=geometry.heads,
        kv_heads=geometry.kv_heads,
        head_dim=geometry.head_dim,
        vocab_size=geometry.vocab_size,
        max_context=geometry.max_context,
        norm=geometry.norm,
        gated_mlp=geometry.gated_mlp,
        qkv_bias=geometry.qkv_bias,
        attention_output_bias=geometry.attention_output_bias,
        mlp_bias=geometry.mlp_bias,
        norms_per_block=geometry.norms_per_block,
        tied_embeddings=False,  # a bundle keeps embedding and lm_head as parts of their own
        qk_norm=geometry.qk_norm,
    )


def geometry_of(spec: ModelSpec, layernorm_epsilon: float) -> Geometry:
    """The geometry of a ChatGLM-6B of these sizes; `spec_of_bundle` reads it back."""
    return Geometry(
        hidden_size=spec.hidden_size,
        ffn_size=spec.ffn_size,
        blocks=spec.blocks,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        max_context=spec.max_context,
        layernorm_epsilon=layernorm_epsilon,
    )


def _published_rule(spec: ModelSpec) -> ReserveRule | None:
    """The reserve constants of the profile that this bundle was exported from, if there is one."""
    if spec.name not in model_names():
        return None
    profile = load_model(spec.name)
    same = (profile.hidden_size, profile.ffn_size) == (spec.hidden_size, spec.ffn_size)
    return profile.reserve_rule if same else None
