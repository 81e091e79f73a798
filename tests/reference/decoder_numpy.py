"""A decoder block with RMS norms in float64, whole sequence at once, written for clarity."""

from __future__ import annotations

import numpy as np

from runtime.export.decoder_config import DecoderConfig


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotated(x, config: DecoderConfig):
    """``x`` [tokens, heads, head_dim], each pair turned as one complex number."""
    dim = config.rotary.dim
    speed = config.rotary.base ** (-np.arange(0, dim, 2) / dim)
    turn = np.exp(1j * np.arange(len(x))[:, None] * speed)[:, None, :]
    result = x.copy()
    if config.rotary.pairing == "neighbours":
        real, imaginary = slice(0, dim, 2), slice(1, dim, 2)
    else:
        real, imaginary = slice(0, dim // 2), slice(dim // 2, dim)
    pair = (x[..., real] + 1j * x[..., imaginary]) * turn
    result[..., real], result[..., imaginary] = pair.real, pair.imag
    return result


def block(x, tensors, config: DecoderConfig, number: int):
    """Hidden states [tokens, hidden] behind block ``number``."""

    def weight(name):
        return tensors[f"blocks.{number}.{name}"].astype(np.float64)

    def linear(value, name):
        bias = f"blocks.{number}.{name}.bias"
        return value @ weight(f"{name}.weight").T + (
            weight(f"{name}.bias") if bias in tensors else 0
        )

    tokens = len(x)
    normed = rms_norm(x, weight("input_norm.weight"), config.norm_epsilon)
    query, key, value = (
        linear(normed, name).reshape(tokens, -1, config.head_dim)
        for name in ("query", "key", "value")
    )
    if config.qk_norm:
        query = rms_norm(query, weight("q_norm.weight"), config.norm_epsilon)
        key = rms_norm(key, weight("k_norm.weight"), config.norm_epsilon)
    query, key = rotated(query, config), rotated(key, config)
    context = np.empty_like(query)
    for head in range(config.heads):
        shared = head * config.kv_heads // config.heads
        scores = query[:, head] @ key[:, shared].T / np.sqrt(config.head_dim)
        scores[np.triu_indices(tokens, 1)] = -np.inf
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        context[:, head] = odds / odds.sum(-1, keepdims=True) @ value[:, shared]
    attention = linear(context.reshape(tokens, -1), "attention_output")
    if config.sandwich_norms:
        attention = rms_norm(attention, weight("attention_output_norm.weight"), config.norm_epsilon)
    middle = x + attention
    normed = rms_norm(middle, weight("post_attention_norm.weight"), config.norm_epsilon)
    gate = linear(normed, "gate")
    mlp = linear(gate / (1 + np.exp(-gate)) * linear(normed, "up"), "down")
    if config.sandwich_norms:
        mlp = rms_norm(mlp, weight("mlp_output_norm.weight"), config.norm_epsilon)
    return middle + mlp
