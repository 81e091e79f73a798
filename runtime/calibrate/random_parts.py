"""Random weights for a block and a head, scaled so that hidden states stay near one."""

from __future__ import annotations

import numpy as np

from runtime.export.weights import Array, BlockWeights, HeadWeights, Linear, Norm
from scheduler.model import ModelSpec

_SEED = 0


def random_block(spec: ModelSpec) -> BlockWeights:
    """Draw a block of ChatGLM's layout."""
    random = np.random.default_rng(_SEED)
    hidden, ffn = spec.hidden_size, spec.ffn_size
    return BlockWeights(
        input_norm=_norm(hidden),
        query_key_value=_linear(random, 3 * hidden, hidden),
        dense=_linear(random, hidden, hidden),
        post_attention_norm=_norm(hidden),
        up=_linear(random, ffn, hidden),
        down=_linear(random, hidden, ffn),
    )


def random_head(spec: ModelSpec) -> HeadWeights:
    """Draw the final norm and the vocabulary matrix."""
    random = np.random.default_rng(_SEED + 1)
    return HeadWeights(
        norm=_norm(spec.hidden_size), weight=_matrix(random, spec.vocab_size, spec.hidden_size)
    )


def _norm(width: int) -> Norm:
    return Norm(weight=np.ones(width, np.float32), bias=np.zeros(width, np.float32))


def _linear(random: np.random.Generator, rows: int, columns: int) -> Linear:
    return Linear(weight=_matrix(random, rows, columns), bias=np.zeros(rows, np.float32))


def _matrix(random: np.random.Generator, rows: int, columns: int) -> Array:
    matrix = random.standard_normal((rows, columns), dtype=np.float32)
    matrix *= np.float32(columns**-0.5)
    return matrix
