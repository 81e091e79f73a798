"""One decoder block and its lm_head in NumPy fp32, from the source's own weights.

What exports must match; `numpy_block` holds ChatGLM-6B's. For one sequence without a cache, keys
and queries in the published order, each head by itself: nothing here follows the graph.
"""

from __future__ import annotations

import math

import numpy as np

from runtime.export.decoder_config import DecoderConfig
from runtime.export.numpy_block import BlockValues, softmax
from runtime.export.weight_source import Array, WeightSource
from runtime.rotary import Rotary
from runtime.rotary_speeds import rotary_speeds


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """RMS norm over the last axis."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    normed: Array = x / np.sqrt(mean_square + np.float32(epsilon)) * weight
    return normed


def silu(x: Array) -> Array:
    """SiLU, that is x times its sigmoid; large negative numbers don't overflow."""
    result: Array = x * (np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x)))
    return result


def decoder_linear(x: Array, source: WeightSource, name: str) -> Array:
    """The linear layer ``name`` (canonical, without ``.weight``); its bias where there is one."""
    product: Array = x @ source.tensor(f"{name}.weight").T
    bias = f"{name}.bias"
    return product if source.shape(bias) is None else product + source.tensor(bias)


def decoder_block(
    x: Array, source: WeightSource, config: DecoderConfig, number: int
) -> BlockValues:
    """Run block ``number`` on hidden states [S, hidden]."""
    prefix = f"blocks.{number}."

    def normed(value: Array, name: str) -> Array:
        return rms_norm(value, source.tensor(f"{prefix}{name}.weight"), config.norm_epsilon)

    def projected(value: Array, name: str) -> Array:
        """[heads, S, dim]."""
        rows = decoder_linear(value, source, prefix + name)
        heads: Array = rows.reshape(len(x), -1, config.head_dim).transpose(1, 0, 2)
        return heads

    inner = normed(x, "input_norm")
    query, keys, values = (projected(inner, name) for name in ("query", "key", "value"))
    if config.qk_norm:
        query, keys = normed(query, "q_norm"), normed(keys, "k_norm")
    query, keys = rotated(query, config.rotary), rotated(keys, config.rotary)
    hidden = np.triu(np.ones((len(x), len(x)), bool), 1)
    contexts = []
    for head in range(config.heads):
        shared = head // (config.heads // config.kv_heads)
        scores = query[head] @ keys[shared].T / np.float32(math.sqrt(config.head_dim))
        scores[hidden] = -np.inf
        contexts.append(softmax(scores) @ values[shared])
    attention = decoder_linear(np.concatenate(contexts, -1), source, f"{prefix}attention_output")
    if config.sandwich_norms:
        attention = normed(attention, "attention_output_norm")
    middle = x + attention
    inner = normed(middle, "post_attention_norm")
    gated = silu(decoder_linear(inner, source, f"{prefix}gate"))
    mlp = decoder_linear(
        gated * decoder_linear(inner, source, f"{prefix}up"), source, f"{prefix}down"
    )
    if config.sandwich_norms:
        mlp = normed(mlp, "mlp_output_norm")
    return BlockValues(keys, values, middle + mlp)


def decoder_logits(x: Array, source: WeightSource, config: DecoderConfig) -> Array:
    """Logits [S, vocab] of hidden states [S, hidden]."""
    normed = rms_norm(x, source.tensor("final_norm.weight"), config.norm_epsilon)
    matrix = "embedding.weight" if config.tied_embeddings else "lm_head.weight"
    logits: Array = normed @ source.tensor(matrix).T
    return logits


def rotated(x: Array, rotary: Rotary) -> Array:
    """[heads, S, dim] with every pair turned by its position, as one complex number."""
    speeds, factor = rotary_speeds(rotary)
    turn = factor * np.exp(1j * np.arange(x.shape[1])[:, None] * speeds)
    part = x[..., : rotary.dim]
    if rotary.pairing == "neighbours":
        pairs = part[..., 0::2] + 1j * part[..., 1::2]
    else:
        first, second = np.split(part, 2, axis=-1)
        pairs = first + 1j * second
    turned = pairs * turn
    result: Array = x.copy()
    if rotary.pairing == "neighbours":
        result[..., 0 : rotary.dim : 2], result[..., 1 : rotary.dim : 2] = turned.real, turned.imag
    else:
        result[..., : rotary.dim] = np.concatenate([turned.real, turned.imag], axis=-1)
    return result
