"""ChatGLM-6B in NumPy, straight from its published definition: slow, whole-sequence, for tests.

Tensors go by their published names. Nothing is shared with the product: heads are unpacked one by
one, attention looks at whole sequences, and no keys or values are kept between calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Model:
    """Weights by published name, and the keys of config.json that matter; computed in ``dtype``."""

    tensors: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    dtype: Any = np.float64

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name].astype(self.dtype)


@dataclass(frozen=True)
class BlockResult:
    """``y`` [S, hidden]; ``keys`` (rotated) and ``values`` [heads, S, dim]."""

    y: np.ndarray
    keys: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Forward:
    """``hidden[0]`` is the embedding, ``hidden[i + 1]`` leaves block i; ``logits`` [S, vocab]."""

    hidden: list[np.ndarray]
    blocks: list[BlockResult]
    logits: np.ndarray


def positions(ids: list[int], config: Mapping[str, Any]) -> np.ndarray:
    """[2, S]: position and block position of every token.

    Up to ``<sop>``: its index, and 0. From ``<sop>`` on: the index of [gMASK] (or of [MASK] where
    the prompt uses that), and 1, 2, 3, ...
    """
    start = ids.index(config["bos_token_id"])
    used = config["gmask_token_id"] if config["gmask_token_id"] in ids else config["mask_token_id"]
    masked = ids.index(used)
    result = np.zeros((2, len(ids)), int)
    for index in range(len(ids)):
        if index < start:
            result[0, index] = index
        else:
            result[0, index] = masked
            result[1, index] = index - start + 1
    return result


def may_see(ids: list[int], config: Mapping[str, Any]) -> np.ndarray:
    """[S, S]: whether the row's position may look at the column's.

    The prompt (all before ``<sop>``) is visible to everyone; what follows only to what comes later.
    """
    start = ids.index(config["bos_token_id"])
    size = len(ids)
    return np.array([[col < start or col <= row for col in range(size)] for row in range(size)])


def rotate(x: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Rotary embedding of ``x`` [S, n] by ``position`` [S]: element i pairs with i + n/2."""
    size = x.shape[-1]
    frequency = 10000.0 ** (-np.arange(0, size, 2) / size)
    angle = position[:, None] * frequency[None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    left, right = x[:, : size // 2], x[:, size // 2 :]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def rotate_2d(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A head's query or key [S, dim]: the first half by position, the second by block position."""
    half = x.shape[-1] // 2
    return np.concatenate([rotate(x[:, :half], where[0]), rotate(x[:, half:], where[1])], axis=-1)


def layer_norm(model: Model, x: np.ndarray, name: str) -> np.ndarray:
    """Layer normalisation over the last axis."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + model.config["layernorm_epsilon"])
    return normal * model[f"{name}.weight"] + model[f"{name}.bias"]


def linear(model: Model, x: np.ndarray, name: str) -> np.ndarray:
    """x · weightᵀ + bias."""
    return x @ model[f"{name}.weight"].T + model[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form of GELU."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def block(
    model: Model, number: int, x: np.ndarray, where: np.ndarray, visible: np.ndarray
) -> BlockResult:
    """One transformer block over the whole sequence ``x`` [S, hidden]."""
    prefix = f"transformer.layers.{number}"
    heads = model.config["num_attention_heads"]
    dim = model.config["hidden_size"] // heads
    alpha = math.sqrt(2 * 28)
    attended = layer_norm(model, x, f"{prefix}.input_layernorm")
    fused = linear(model, attended, f"{prefix}.attention.query_key_value")
    contexts, keys, values = [], [], []
    for head in range(heads):
        own = fused[:, head * 3 * dim : (head + 1) * 3 * dim]
        query = rotate_2d(own[:, :dim], where)
        key = rotate_2d(own[:, dim : 2 * dim], where)
        value = own[:, 2 * dim :]
        scores = np.where(visible, query @ key.T / math.sqrt(dim), -10000.0)
        contexts.append(softmax(scores) @ value)
        keys.append(key)
        values.append(value)
    attention = linear(model, np.concatenate(contexts, -1), f"{prefix}.attention.dense")
    middle = attended * alpha + attention
    normed = layer_norm(model, middle, f"{prefix}.post_attention_layernorm")
    up = gelu(linear(model, normed, f"{prefix}.mlp.dense_h_to_4h"))
    y = normed * alpha + linear(model, up, f"{prefix}.mlp.dense_4h_to_h")
    return BlockResult(y, np.stack(keys), np.stack(values))


def head(model: Model, x: np.ndarray) -> np.ndarray:
    """Final norm and lm_head (the embedding where none is stored): logits of every position."""
    normed = layer_norm(model, x, "transformer.final_layernorm")
    tied = "lm_head.weight" not in model.tensors
    return normed @ model["transformer.word_embeddings.weight" if tied else "lm_head.weight"].T


def forward(model: Model, ids: list[int]) -> Forward:
    """The whole model over a sequence that ends after ``<sop>`` or later."""
    where, visible = positions(ids, model.config), may_see(ids, model.config)
    hidden = [model["transformer.word_embeddings.weight"][ids]]
    blocks = []
    for number in range(model.config["num_layers"]):
        blocks.append(block(model, number, hidden[-1], where, visible))
        hidden.append(blocks[-1].y)
    return Forward(hidden, blocks, head(model, hidden[-1]))


def generate(model: Model, prompt: list[int], limit: int) -> list[int]:
    """Greedy continuation of ``prompt`` (plain tokens; [gMASK] and ``<sop>`` are added here)."""
    config = model.config
    ids = [*prompt, config["gmask_token_id"], config["bos_token_id"]]
    answer: list[int] = []
    while len(answer) < limit:
        token = int(forward(model, ids).logits[-1].argmax())
        if token == config["eos_token_id"]:
            break
        answer.append(token)
        ids.append(token)
    return answer
