"""Tensors by canonical name: what every file format delivers and the exporter reads.

Canonical names are ``embedding``, ``final_norm``, ``lm_head`` (absent where the embedding is tied)
and, for each block N, ``blocks.N.`` with ``input_norm``, ``query``, ``key``, ``value``,
``attention_output``, ``post_attention_norm``, ``gate`` (of a gated MLP), ``up``, ``down``, and
``q_norm``, ``k_norm``, ``attention_output_norm``, ``mlp_output_norm`` where the family has them;
each followed by ``.weight`` or ``.bias``.

Matrices are [output rows, inner width]. Rows of ``query``, ``key`` and ``value`` go head by head,
elements of a head in the order that the config's ``rotary.pairing`` names: a source takes fused
tensors apart, and never reorders the elements of a head.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.export.decoder_config import DecoderConfig
from scheduler.errors import CheckpointError

Array = npt.NDArray[np.float32]


class WeightSource(Protocol):
    """An opened checkpoint that delivers one tensor at a time."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Dimensions of a tensor by canonical name, without reading it; None where it is absent."""

    def tensor(self, name: str) -> Array:
        """The whole tensor as fp32. Raises CheckpointError for NaN or infinite values."""

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` of a matrix as fp32, read without the rest of it."""


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The canonical name and shape of every tensor that a checkpoint of this config must have."""
    hidden, ffn = config.hidden_size, config.ffn_size
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    linears = {
        "query": (query, hidden, config.qkv_bias),
        "key": (key, hidden, config.qkv_bias),
        "value": (key, hidden, config.qkv_bias),
        "attention_output": (hidden, query, config.attention_output_bias),
        "up": (ffn, hidden, config.mlp_bias),
        "down": (hidden, ffn, config.mlp_bias),
    }
    if config.gated_mlp:
        linears["gate"] = (ffn, hidden, config.mlp_bias)
    norms = {"input_norm": hidden, "post_attention_norm": hidden}
    if config.sandwich_norms:
        norms |= {"attention_output_norm": hidden, "mlp_output_norm": hidden}
    if config.qk_norm:
        norms |= {"q_norm": config.head_dim, "k_norm": config.head_dim}
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocab_size, hidden)}
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    shapes |= _norm_shapes(config, "final_norm", hidden)
    for number in range(config.blocks):
        prefix = f"blocks.{number}."
        for name, width in norms.items():
            shapes |= _norm_shapes(config, prefix + name, width)
        for name, (rows, inner, bias) in linears.items():
            shapes[f"{prefix}{name}.weight"] = (rows, inner)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
    return shapes


def require_tensors(source: WeightSource, config: DecoderConfig, where: str) -> None:
    """Raise CheckpointError, naming ``where`` and the tensor, unless all are there in shape."""
    for name, shape in expected_shapes(config).items():
        found = source.shape(name)
        if found is None:
            raise CheckpointError(
                f"{where} lacks {name}; expected a complete {config.family} checkpoint."
            )
        if found != shape:
            raise CheckpointError(
                f"{where} has {name} of shape {list(found)}; its configuration implies"
                f" {list(shape)}."
            )


def _norm_shapes(config: DecoderConfig, name: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (width,)}
    if config.norm == "layer":
        shapes[f"{name}.bias"] = (width,)
    return shapes
