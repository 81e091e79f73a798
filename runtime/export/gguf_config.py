"""GGUF metadata to a decoder's configuration; whatever is not understood is refused by name.

Keys, defaults and pairings are those of llama.cpp's loader (src/llama-model.cpp) and of its
conversion scripts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.export.decoder_config import DecoderConfig
from runtime.export.gguf_header import GgufHeader, Value
from runtime.export.gguf_stop_ids import stop_ids
from runtime.rotary import Rotary, RotaryScaling
from scheduler.errors import CheckpointError


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp's code fixes for one ``general.architecture``.

    ``pairing`` says which elements of a head turn together: conversion to ``llama`` reorders rows
    of queries and keys so that neighbours do. ``partly_rotated``: the rotary dimension may be less
    than a head. ``fused``: attn_qkv may hold query, key, value, and ffn_up holds gate, up.
    """

    family: str
    pairing: Literal["halves", "neighbours"]
    partly_rotated: bool = False
    qk_norm: bool = False
    fused: bool = False
    sandwich_norms: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "neighbours"),  # Mistral and SmolLM2 too
    "qwen2": Architecture("qwen2", "halves"),
    "qwen3": Architecture("qwen3", "halves", qk_norm=True),
    "chatglm": Architecture("chatglm2", "neighbours", partly_rotated=True, fused=True),
    "glm4": Architecture(
        "glm4", "neighbours", partly_rotated=True, fused=True, sandwich_norms=True
    ),
}

MAX_BLOCKS = 1000  # as many as a bundle may have

# Keys that change nothing here: the tool's notes, and switches in the one position that is built.
_WITHOUT_EFFECT = {"tensor_data_layout", "rope.scaling.finetuned"}
_ONLY: Mapping[str, Value] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "use_parallel_residual": False,
}


class _Keys:
    """The metadata under ``<architecture>.``; remembers which keys were asked for."""

    def __init__(self, path: Path, metadata: Mapping[str, Value], architecture: str) -> None:
        self.path, self.prefix, self._metadata = path, architecture + ".", metadata
        self._known = set(_WITHOUT_EFFECT)

    def fail(self, key: str, expected: str) -> CheckpointError:
        value = self._metadata.get(self.prefix + key)
        said = "nothing" if value is None else repr(value)[:60]
        return CheckpointError(
            f"{self.path} says {said} for {self.prefix}{key}; expected {expected}."
        )

    def value(self, key: str) -> Value | None:
        self._known.add(key)
        return self._metadata.get(self.prefix + key)

    def size(self, key: str, default: int | None = None) -> int:
        """A count; a list that says the same for every block counts as one value."""
        value = self.value(key)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self.fail(key, "a positive whole number, the same for all blocks")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.fail(key, "a positive number")
        if not math.isfinite(value):
            raise self.fail(key, "a finite number")
        return float(value)

    def word(self, key: str, among: Sequence[str], default: str) -> str:
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in among:
            raise self.fail(key, " or ".join(among))
        return value

    def require_all_known(self) -> None:
        for key, only in _ONLY.items():
            if (value := self.value(key)) is not None and value != only:
                raise self.fail(key, repr(only))
        for key in self._metadata:
            name = key.removeprefix(self.prefix)
            if name != key and name not in self._known:
                raise CheckpointError(
                    f"{self.path} sets {key}, which this version does not know for the architecture"
                    f" {self.prefix[:-1]}; convert the model to MNN from its safetensors instead."
                )


def architecture_of(path: Path, header: GgufHeader) -> tuple[str, Architecture]:
    """The name and facts of the file's architecture; CheckpointError for any other."""
    name = header.metadata.get("general.architecture")
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise CheckpointError(f"{path} holds a GGUF of type {kind!r:.60}; expected a model.")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} holds a model of architecture {name!r:.60}; GGUF files of"
            f" {', '.join(ARCHITECTURES)} can be exported."
        )
    return name, ARCHITECTURES[name]


def decoder_config(
    path: Path, header: GgufHeader, pair_factors: tuple[float, ...] | None = None
) -> DecoderConfig:
    """The configuration that a model's metadata and tensor shapes state.

    ``pair_factors`` are the values of ``rope_freqs.weight``, which divide the speed of each rotated
    pair (Llama 3.1 and later). Raises CheckpointError for another architecture, for a missing or
    senseless value, and for a key that could change the model and is not known here.
    """
    name, architecture = architecture_of(path, header)
    keys = _Keys(path, header.metadata, name)
    tensors = header.tensors
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    kv_heads = keys.size("attention.head_count_kv", heads)
    head_dim = keys.size("attention.key_length", hidden // heads)
    if keys.size("attention.value_length", head_dim) != head_dim:
        raise keys.fail("attention.value_length", f"the length of a key, {head_dim}")
    if (blocks := keys.size("block_count")) > MAX_BLOCKS:
        raise keys.fail("block_count", f"at most {MAX_BLOCKS}")
    if heads % kv_heads:
        raise keys.fail("attention.head_count_kv", f"a divisor of the {heads} heads")
    context = keys.size("context_length")
    window = keys.value("attention.sliding_window")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path} has no matrix token_embd.weight; expected a whole model.")
    vocabulary = embedding.shape[1]
    if keys.size("vocab_size", vocabulary) != vocabulary:
        raise keys.fail("vocab_size", f"{vocabulary}, the rows of token_embd.weight")
    config = DecoderConfig(
        name=_model_name(path),
        family=architecture.family,
        hidden_size=hidden,
        ffn_size=keys.size("feed_forward_length"),
        blocks=blocks,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        max_context=context,
        norm="rms",
        norm_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        activation="silu",
        gated_mlp=True,
        rotary=_rotary(keys, architecture, head_dim, context, pair_factors),
        stop_ids=stop_ids(path, header.metadata, vocabulary),
        qkv_bias=bool({"blk.0.attn_q.bias", "blk.0.attn_qkv.bias"} & tensors.keys()),
        attention_output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        qk_norm=architecture.qk_norm,
        sandwich_norms=architecture.sandwich_norms,
        tied_embeddings="output.weight" not in tensors,
        sliding_window=None if window in (None, 0) else keys.size("attention.sliding_window"),
    )
    keys.require_all_known()
    return config


def _rotary(
    keys: _Keys,
    architecture: Architecture,
    head_dim: int,
    context: int,
    pair_factors: tuple[float, ...] | None,
) -> Rotary:
    dim = keys.size("rope.dimension_count", head_dim)
    if dim % 2 or dim > head_dim or (dim < head_dim and not architecture.partly_rotated):
        raise keys.fail("rope.dimension_count", f"{head_dim}, the length of a head")
    base = keys.number("rope.freq_base", 10000.0)
    if not base > 1:
        raise keys.fail("rope.freq_base", "a number above 1")
    scaling = _scaling(keys, context)
    if pair_factors is not None:
        if scaling is not None:
            raise keys.fail("rope.scaling.type", "none beside the tensor rope_freqs.weight")
        if len(pair_factors) != dim // 2:
            raise CheckpointError(
                f"{keys.path} has {len(pair_factors)} values in rope_freqs.weight; expected"
                f" {dim // 2}, one for each rotated pair."
            )
        if any(factor != 1 for factor in pair_factors):
            scaling = RotaryScaling("factors", 1.0, context, pair_factors=pair_factors)
    return Rotary(architecture.pairing, dim, base, scaling)


def _scaling(keys: _Keys, context: int) -> RotaryScaling | None:
    """What ``rope.scaling`` says; without a type a factor is linear, as in llama.cpp."""
    kind = keys.word("rope.scaling.type", ("none", "linear", "yarn"), "linear")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    original = keys.size("rope.scaling.original_context_length", context)
    attention = keys.number("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        own = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        return RotaryScaling("yarn", factor, original, attention_factor=attention * own)
    if attention != 1:
        raise keys.fail("rope.scaling.attn_factor", "1 without YaRN")
    return None if kind == "none" or factor == 1 else RotaryScaling("linear", factor, original)


def _model_name(path: Path) -> str:
    """The file's name, without the number of a split: general.name is often a slogan."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", path.name.removesuffix(".gguf"))
