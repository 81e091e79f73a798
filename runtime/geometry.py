"""Geometry: what the runtime must know of a dense decoder to shape its inputs and its cache."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from runtime.rotary import Rotary
from scheduler.hf_families import FAMILIES
from scheduler.wording import shorten


class Geometry(BaseModel):
    """Sizes in elements; what is not given is as in ChatGLM-6B.

    ``mask`` prefix lets all tokens of the prompt but its last see each other. ``rotary`` null
    stands for ChatGLM-6B's two halves of a head. ``sliding_window`` says that ``max_context``
    ends where the model's window would begin to hide tokens: blocks know of no window.
    ``layernorm_epsilon`` serves RMS norms as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    family: str = "chatglm"
    hidden_size: int = Field(gt=0, le=1 << 17)
    ffn_size: int = Field(gt=0, le=1 << 20)
    blocks: int = Field(gt=0, le=1000)
    heads: int = Field(gt=0, le=1 << 12)
    kv_heads: int = Field(gt=0, le=1 << 12)
    head_dim: int = Field(gt=0, le=1 << 14)
    vocab_size: int = Field(gt=0, le=1 << 24)
    max_context: int = Field(gt=0, le=1 << 24)
    layernorm_epsilon: float = Field(gt=0, lt=1)
    norm: Literal["layer", "rms"] = "layer"
    norms_per_block: Literal[2, 4] = 2
    activation: Literal["gelu", "silu"] = "gelu"
    gated_mlp: bool = False
    residual: Literal["plain", "scaled"] = "scaled"
    qkv_bias: bool = True
    attention_output_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    mask: Literal["prefix", "causal"] = "prefix"
    rotary: Rotary | None = None
    sliding_window: int | None = Field(default=None, gt=0)

    @field_validator("family")
    @classmethod
    def _is_known(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f"family {shorten(family)} is none of {', '.join(FAMILIES)}")
        return family

    @model_validator(mode="after")
    def _is_consistent(self) -> Geometry:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} are no multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 4:
            raise ValueError(f"head_dim {self.head_dim} is not a multiple of four")
        if (self.mask == "prefix") != (self.turning.pairing == "two_halves"):
            raise ValueError(
                f"mask {self.mask!r} does not go with rotary pairing {self.turning.pairing!r}"
            )
        if self.family == "chatglm" and (
            self.heads * self.head_dim != self.hidden_size or self.kv_heads != self.heads
        ):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not heads {self.heads} x head_dim"
                f" {self.head_dim} with kv_heads {self.kv_heads} equal to heads"
            )
        _require_sane(self.turning, self.head_dim)
        return self

    @property
    def turning(self) -> Rotary:
        """The rotary embedding, ChatGLM-6B's where none is given."""
        return self.rotary or Rotary("two_halves", self.head_dim)


def _require_sane(rotary: Rotary, head_dim: int) -> None:
    if rotary.dim % 2 or not 0 < rotary.dim <= head_dim:
        raise ValueError(f"rotary dim {rotary.dim} is not even and within head_dim {head_dim}")
    if not 1 < rotary.base < 1e12:
        raise ValueError(f"rotary base {rotary.base} is not between 1 and 1e12")
    scaling = rotary.scaling
    if scaling is None:
        return
    if not 0 < scaling.factor < 1e6 or not 0 < scaling.original_context < 1 << 30:
        raise ValueError(
            f"rotary scaling by {scaling.factor} from {scaling.original_context} tokens is out of"
            " range"
        )
    if scaling.kind == "llama3" and not (
        0 < scaling.low_frequency_factor < scaling.high_frequency_factor < 1e6
    ):
        raise ValueError("llama3 scaling expects low_frequency_factor below high_frequency_factor")
    if scaling.kind == "yarn" and not 0 < scaling.beta_slow < scaling.beta_fast < 1e6:
        raise ValueError("yarn scaling expects beta_slow below beta_fast")
    if scaling.kind == "factors" and not (
        len(scaling.pair_factors) == rotary.dim // 2
        and all(0 < factor < 1e6 for factor in scaling.pair_factors)
    ):
        raise ValueError("scaling by factors expects a positive one for each rotated pair")
    if scaling.attention_factor is not None and not 0 < scaling.attention_factor < 1e3:
        raise ValueError(f"rotary attention_factor {scaling.attention_factor} is out of range")
