"""ChatGLM2, ChatGLM3 and glm-4 in float64, whole sequence at once, by their published names.

Written from the definition: one projection for all queries and for the shared keys and values,
rotation of neighbouring elements in the first half of a head, RMS norms, SwiGLU.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors in fp32, strong enough that every part of a block matters."""
    random = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["ffn_hidden_size"]
    queries = config["num_attention_heads"] * config["kv_channels"]
    both = queries + 2 * config["multi_query_group_num"] * config["kv_channels"]
    vocabulary = config["padded_vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (vocabulary, hidden),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (vocabulary, hidden),
    }
    for number in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{number}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attention.query_key_value.weight": (both, hidden),
            f"{prefix}self_attention.query_key_value.bias": (both,),
            f"{prefix}self_attention.dense.weight": (hidden, queries),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.dense_h_to_4h.weight": (2 * ffn, hidden),
            f"{prefix}mlp.dense_4h_to_h.weight": (hidden, ffn),
        }
    return {
        name: random.normal("norm" in name, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def forward(
    tensors: dict[str, np.ndarray], config: dict[str, Any], ids: list[int]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Hidden states behind the embedding and each layer, [tokens, hidden], and logits."""

    def weight(name: str) -> np.ndarray:
        return tensors[name].astype(np.float64)

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        length = np.sqrt(np.square(x).sum(-1, keepdims=True) / x.shape[-1] + epsilon)
        return x / length * weight(f"{name}.weight")

    epsilon = config["layernorm_epsilon"]
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    dim, tokens = config["kv_channels"], len(ids)
    turns = np.stack([_turn(position, dim, config) for position in range(tokens)])
    seen = np.tril(np.ones((tokens, tokens), bool))
    x = weight("transformer.embedding.word_embeddings.weight")[ids]
    states = [x]
    for number in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{number}"
        fused = f"{layer}.self_attention.query_key_value"
        mixed = normed(x, f"{layer}.input_layernorm") @ weight(f"{fused}.weight").T
        mixed += weight(f"{fused}.bias")
        query, key, value = np.split(mixed, [heads * dim, (heads + groups) * dim], axis=1)
        query = np.einsum("tij,thj->thi", turns, query.reshape(tokens, heads, dim))
        key = np.einsum("tij,tgj->tgi", turns, key.reshape(tokens, groups, dim))
        key = np.repeat(key, heads // groups, axis=1)
        value = np.repeat(value.reshape(tokens, groups, dim), heads // groups, axis=1)
        odds = np.exp(np.einsum("qhd,khd->hqk", query, key) / dim**0.5) * seen
        odds /= odds.sum(-1, keepdims=True)
        context = np.einsum("hqk,khd->qhd", odds, value).reshape(tokens, -1)
        x = x + context @ weight(f"{layer}.self_attention.dense.weight").T
        inner = normed(x, f"{layer}.post_attention_layernorm")
        gate, up = np.split(inner @ weight(f"{layer}.mlp.dense_h_to_4h.weight").T, 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weight(f"{layer}.mlp.dense_4h_to_h.weight").T
        states.append(x)
    final = normed(x, "transformer.encoder.final_layernorm")
    return states, final @ weight("transformer.output_layer.weight").T


def _turn(position: int, dim: int, config: dict[str, Any]) -> np.ndarray:
    """The matrix [dim, dim] that a position turns a query or key by."""
    matrix, rotary = np.eye(dim), dim // 2
    for pair in range(rotary // 2):
        base = 10000.0 * config.get("rope_ratio", 1)
        angle = position / base ** (2 * pair / rotary)
        one, two = 2 * pair, 2 * pair + 1
        matrix[one, one] = matrix[two, two] = np.cos(angle)
        matrix[one, two], matrix[two, one] = -np.sin(angle), np.sin(angle)
    return matrix
