"""One block and lm_head in NumPy fp32, from the checkpoint's own weights: what exports must match.

Written from ChatGLM-6B's definition for one sequence without a cache; keys and queries are in the
published order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.export.block_graph import RESIDUAL_SCALE
from runtime.export.weights import Array, BlockWeights, HeadWeights, Linear, Norm

_ROTARY_BASE = 10000.0
_MASKED = -10000.0


@dataclass(frozen=True)
class Sequence:
    """What attention needs to know of S tokens of which ``context`` are visible to all."""

    tokens: int
    context: int
    mask_position: int

    def positions(self) -> npt.NDArray[np.int64]:
        """[2, S]: position and block position; after the context, that of the mask token, and 1, 2,
        3, ..."""
        index = np.arange(self.tokens)
        answer = index >= self.context
        position = np.where(answer, self.mask_position, index)
        return np.stack([position, np.where(answer, index - self.context + 1, 0)])

    def mask(self) -> Array:
        """[S, S]: 0 where the row's token sees the column's, else -10000."""
        index = np.arange(self.tokens)
        visible = (index[None, :] < self.context) | (index[None, :] <= index[:, None])
        return np.where(visible, 0.0, _MASKED).astype(np.float32)


@dataclass(frozen=True)
class BlockValues:
    """Values inside and behind a block: ``keys``, ``values`` [heads, S, dim], ``y`` [S, hidden]."""

    keys: Array
    values: Array
    y: Array


def layer_norm(x: Array, norm: Norm, epsilon: float) -> Array:
    """Layer norm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt(np.mean(centred**2, -1, keepdims=True) + np.float32(epsilon))
    normed: Array = centred / scale * norm.weight + norm.bias
    return normed


def linear(x: Array, layer: Linear) -> Array:
    """x · weightᵀ + bias."""
    result: Array = x @ layer.weight.T + layer.bias
    return result


def gelu(x: Array) -> Array:
    """GELU in its tanh form."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    result: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return result


def block(
    x: Array, weights: BlockWeights, sequence: Sequence, heads: int, epsilon: float
) -> BlockValues:
    """Run one block on hidden states [S, hidden]."""
    alpha = np.float32(RESIDUAL_SCALE)
    attended = layer_norm(x, weights.input_norm, epsilon)
    fused = linear(attended, weights.query_key_value)
    by_head = fused.reshape(len(x), heads, 3, -1).transpose(2, 1, 0, 3)
    cos, sin = _rotary(sequence.positions(), by_head.shape[-1])
    query, keys = _rotate(by_head[0], cos, sin), _rotate(by_head[1], cos, sin)
    scores = query @ keys.transpose(0, 2, 1) / np.float32(math.sqrt(keys.shape[-1]))
    context = softmax(scores + sequence.mask()) @ by_head[2]
    flat = context.transpose(1, 0, 2).reshape(len(x), -1)
    middle = alpha * attended + linear(flat, weights.dense)
    normed = layer_norm(middle, weights.post_attention_norm, epsilon)
    y = alpha * normed + linear(gelu(linear(normed, weights.up)), weights.down)
    return BlockValues(keys, by_head[2], y)


def lm_head(x: Array, weights: HeadWeights, epsilon: float) -> Array:
    """Logits [S, vocab] of hidden states [S, hidden]."""
    logits: Array = layer_norm(x, weights.norm, epsilon) @ weights.weight.T
    return logits


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    power = np.exp(x - x.max(-1, keepdims=True))
    result: Array = power / power.sum(-1, keepdims=True)
    return result


def _rotary(positions: npt.NDArray[np.int64], head_dim: int) -> tuple[Array, Array]:
    """Cosine and sine [2, S, head_dim / 4]."""
    frequency = _ROTARY_BASE ** (-np.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angle = positions[:, :, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate [heads, S, dim]: the first half by position, the second by block position."""
    p1, p2, b1, b2 = np.split(x, 4, axis=-1)
    rotated = [
        p1 * cos[0] - p2 * sin[0],
        p2 * cos[0] + p1 * sin[0],
        b1 * cos[1] - b2 * sin[1],
        b2 * cos[1] + b1 * sin[1],
    ]
    return np.concatenate(rotated, axis=-1)
