"""ModelSpec: the geometry of a decoder, and from it the parameters and bytes of every part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelSpec:
    """Geometry of a dense decoder; sizes in elements.

    `reserve_rule` holds a profile's own constants for the `reserve` policy, where its authors published them.
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
    gated_mlp: bool
    qkv_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    norms_per_block: int
    tied_embeddings: bool
    qk_norm: bool = False
    lm_head_bias: bool = False
