"""Every hyper-parameter of a dense decoder, whatever file format it was read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RotaryScaling:
    """How a checkpoint stretches its rotary frequencies to a longer context.

    ``original_context`` is in tokens. ``low_frequency_factor`` and ``high_frequency_factor`` serve
    llama3 alone; ``beta_fast``, ``beta_slow`` and ``attention_factor`` serve yarn alone, where None
    stands for the factor that the YaRN paper gives, 0.1 ln(factor) + 1.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_context: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


@dataclass(frozen=True)
class Rotary:
    """Which elements of a query or key are rotated, and how fast.

    The first ``dim`` elements of a head turn. ``pairing`` says which two turn together in the
    tensors as the source delivers them: ``halves`` i and i + dim / 2, ``neighbours`` 2i and 2i + 1,
    ``two_halves`` ChatGLM-6B's: each half of the head by ``halves``, the first by position and the
    second by block position.
    """

    pairing: Literal["halves", "neighbours", "two_halves"]
    dim: int
    base: float = 10000.0
    scaling: RotaryScaling | None = None


@dataclass(frozen=True)
class DecoderConfig:
    """A dense decoder; sizes in elements, ``max_context`` and ``sliding_window`` in tokens.

    ``family`` is a name that `scheduler.hf_families` lists. ``residual`` scaled is ChatGLM-6B's.
    ``mask`` prefix lets all tokens of the prompt but its last see each other. ``stop_ids`` are the
    tokens that end an answer.
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
    tied_embeddings: bool = False
    sliding_window: int | None = None
