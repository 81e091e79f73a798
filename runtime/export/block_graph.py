"""The ONNX graphs of one ChatGLM block and of lm_head, built from NumPy weights.

One block graph serves every device, precision, batch and sequence length; only the weights differ.

Inputs, all fp32, where B is the batch, S the new positions and T the cached slots:

- ``x`` [B, S, hidden]: hidden states;
- ``mask`` [B, 1, S, T + S]: added to the scores, 0 or -10000; cached slots first, then the new;
- ``cos``, ``sin`` [B, 2, S, head_dim / 4]: rotary tables; axis 1 is by position, by block position;
- ``past_k`` [B, heads, head_dim, T]: cached keys, in the order of `key_order`;
- ``past_v`` [B, heads, T, head_dim]: cached values.

Outputs: ``y`` [B, S, hidden], ``new_k`` [B, heads, head_dim, S], ``new_v`` [B, heads, S, head_dim].
The cache is never concatenated: scores against cached and new keys are computed apart, joined for
the softmax, and split again.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.export.onnx_graph import Dims, OnnxGraph
from runtime.export.weights import Array, BlockWeights, HeadWeights, Linear, Norm

BLOCK_INPUTS = ("x", "mask", "cos", "sin", "past_k", "past_v")
BLOCK_OUTPUTS = ("y", "new_k", "new_v")
LM_HEAD_INPUTS = ("x",)
LM_HEAD_OUTPUTS = ("logits",)

# ChatGLM-6B scales both residuals by sqrt(2 * layers) with layers fixed at 28 in its published
# code, whatever the config says.
RESIDUAL_SCALE = math.sqrt(2 * 28)


def key_order(head_dim: int) -> npt.NDArray[np.intp]:
    """Where each element of a head's query or key in our order stands in the published order.

    Published, in quarters of head_dim: [p1 p2 b1 b2], where (p1, p2) is rotated by position and
    (b1, b2) by block position. Ours: [p1 b1 p2 b2], so that both rotations are one. Scores don't
    depend on the order.
    """
    quarters = np.arange(head_dim).reshape(4, head_dim // 4)
    return quarters[[0, 2, 1, 3]].reshape(-1)


def half_factors(value: float) -> tuple[float, float]:
    """Two numbers that fp16 holds exactly, whose product is nearest to a positive ``value``.

    MNN's fp16 files cut every constant to fp16, with an error of up to 1e-3; a product of two comes
    within 4e-6, and within 3e-7 at the usual widths of a head.
    """
    first = np.arange(1024, 2048) / 1024
    second = np.float64(np.float16(value / first))
    best = np.abs(first * second - value).argmin()
    return float(first[best]), float(second[best])


def write_block(path: Path, weights: BlockWeights, *, heads: int, layernorm_epsilon: float) -> None:
    """Write the block's graph to ``path`` and its weights to ``<path>.data``."""
    hidden = weights.input_norm.weight.shape[0]
    head_dim = hidden // heads
    with OnnxGraph(path, "block") as graph:
        _declare_block(graph, hidden, heads, head_dim)
        norm = weights.input_norm
        attended = _layer_norm(graph, "x", norm, "ln1", layernorm_epsilon)
        attention = _attention(graph, attended, weights, heads, head_dim)
        residual = _layer_norm(graph, "x", _scaled(norm), "residual1", layernorm_epsilon)
        middle = graph.node("Add", [residual, attention], "h")
        norm = weights.post_attention_norm
        normed = _layer_norm(graph, middle, norm, "ln2", layernorm_epsilon)
        up = _linear(graph, normed, weights.up, "up")
        down = _linear(graph, _gelu(graph, up), weights.down, "down")
        residual = _layer_norm(graph, middle, _scaled(norm), "residual2", layernorm_epsilon)
        graph.node("Add", [residual, down], "y")


def write_lm_head(path: Path, weights: HeadWeights, *, layernorm_epsilon: float) -> None:
    """Write final norm and lm_head: ``x`` [B, 1, hidden] to ``logits`` [B, 1, vocab], fp32."""
    vocab, hidden = weights.weight.shape
    with OnnxGraph(path, "lm_head") as graph:
        graph.input("x", ["B", 1, hidden])
        graph.output("logits", ["B", 1, vocab])
        normed = _layer_norm(graph, "x", weights.norm, "norm", layernorm_epsilon)
        matrix = graph.transposed_weight("lm_head.weight", weights.weight)
        graph.node("MatMul", [normed, matrix], "logits")


def _declare_block(graph: OnnxGraph, hidden: int, heads: int, head_dim: int) -> None:
    table: Dims = ["B", 2, "S", head_dim // 4]
    graph.input("x", ["B", "S", hidden])
    graph.input("mask", ["B", 1, "S", "T_plus_S"])
    graph.input("cos", table)
    graph.input("sin", table)
    graph.input("past_k", ["B", heads, head_dim, "T"])
    graph.input("past_v", ["B", heads, "T", head_dim])
    graph.output("y", ["B", "S", hidden])
    graph.output("new_k", ["B", heads, head_dim, "S"])
    graph.output("new_v", ["B", heads, "S", head_dim])


def _layer_norm(graph: OnnxGraph, x: str, norm: Norm, name: str, epsilon: float) -> str:
    inputs = [
        x,
        graph.weight(f"{name}.weight", norm.weight),
        graph.weight(f"{name}.bias", norm.bias),
    ]
    return graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=epsilon)


def _scaled(norm: Norm) -> Norm:
    # The residual is the scaled norm. A scaled norm keeps its fp32 weights in an fp16 file, where
    # a constant to multiply by would be cut to fp16: an error of 4e-4 in y (measured).
    alpha = np.float32(RESIDUAL_SCALE)
    return Norm(norm.weight * alpha, norm.bias * alpha)


def _linear(graph: OnnxGraph, x: str, linear: Linear, name: str) -> str:
    # A MatMul with a constant and the Add behind it become one 1x1 convolution, which is what gets
    # quantised.
    weight = graph.transposed_weight(f"{name}.weight", linear.weight)
    product = graph.node("MatMul", [x, weight], f"{name}.product")
    return graph.node("Add", [product, graph.weight(f"{name}.bias", linear.bias)], name)


def _gelu(graph: OnnxGraph, u: str) -> str:
    # MNN recognises GELU (tanh) as one operator only in exactly this arrangement.
    cube = graph.node("Pow", [u, graph.scalar("three", 3.0)], "gelu.cube")
    cube = graph.node("Mul", [cube, graph.scalar("gelu.c3", 0.044715)], "gelu.cubic")
    inner = graph.node("Add", [u, cube], "gelu.sum")
    inner = graph.node(
        "Mul", [inner, graph.scalar("gelu.c1", math.sqrt(2 / math.pi))], "gelu.inner"
    )
    gate = graph.node("Tanh", [inner], "gelu.tanh")
    gate = graph.node("Add", [gate, graph.scalar("one", 1.0)], "gelu.shifted")
    gate = graph.node("Mul", [gate, graph.scalar("half", 0.5)], "gelu.gate")
    return graph.node("Mul", [u, gate], "gelu")


def _attention(graph: OnnxGraph, x: str, weights: BlockWeights, heads: int, head_dim: int) -> str:
    hidden = heads * head_dim
    fused = _linear(
        graph, x, _queries_keys_values(weights.query_key_value, heads, head_dim), "query_key_value"
    )
    thirds = graph.integers("thirds", [hidden] * 3)
    query, key, value = graph.node_with_outputs(
        "Split", [fused, thirds], ["query", "key", "value"], axis=-1
    )
    cos, sin = _rotary_table(graph, "cos", head_dim), _rotary_table(graph, "sin", head_dim)
    per_head = graph.integers("per_head", [0, 0, heads, head_dim])
    halves = graph.integers("halves", [head_dim // 2] * 2)
    query = _rotate(graph, query, cos, sin, per_head, halves)
    key = _rotate(graph, key, cos, sin, per_head, halves)
    for name, factor in zip(("coarse", "fine"), half_factors(1 / math.sqrt(head_dim)), strict=True):
        scale = graph.scalar(f"scale.{name}", factor)
        query = graph.node("Mul", [query, scale], f"query.{name}")
    query = graph.node("Transpose", [query], "query.by_head", perm=[0, 2, 1, 3])
    new_k = graph.node("Transpose", [key], "new_k", perm=[0, 2, 3, 1])
    value = graph.node("Reshape", [value, per_head], "value.heads")
    new_v = graph.node("Transpose", [value], "new_v", perm=[0, 2, 1, 3])
    context = _attend(graph, query, new_k, new_v)
    context = graph.node("Transpose", [context], "context.by_position", perm=[0, 2, 1, 3])
    flat = graph.integers("flat", [0, 0, hidden])
    context = graph.node("Reshape", [context, flat], "context.flat")
    return _linear(graph, context, weights.dense, "dense")


def _attend(graph: OnnxGraph, query: str, new_k: str, new_v: str) -> str:
    old = graph.node("MatMul", [query, "past_k"], "scores.past")
    new = graph.node("MatMul", [query, new_k], "scores.new")
    scores = graph.node("Concat", [old, new], "scores", axis=-1)
    scores = graph.node("Add", [scores, "mask"], "scores.masked")
    probabilities = graph.node("Softmax", [scores], "probabilities", axis=-1)
    last_axis = graph.integers("last_axis", [3])
    zero, four = graph.integers("zero", [0]), graph.integers("four", [4])
    shape = graph.node("Shape", ["past_k"], "past_k.shape")
    cached = graph.node("Slice", [shape, last_axis, four, zero], "cached")
    end = graph.integers("end", [2**31 - 1])
    old = graph.node("Slice", [probabilities, zero, cached, last_axis], "probabilities.past")
    new = graph.node("Slice", [probabilities, cached, end, last_axis], "probabilities.new")
    old = graph.node("MatMul", [old, "past_v"], "context.past")
    new = graph.node("MatMul", [new, new_v], "context.new")
    return graph.node("Add", [old, new], "context")


def _rotary_table(graph: OnnxGraph, name: str, head_dim: int) -> str:
    # [B, 2, S, R] -> [B, S, 1, 2R]: by position, then by block position, for every head alike.
    by_position = graph.node("Transpose", [name], f"{name}.by_position", perm=[0, 2, 1, 3])
    shape = graph.integers(f"{name}.shape", [0, 0, 1, head_dim // 2])
    return graph.node("Reshape", [by_position, shape], f"{name}.table")


def _rotate(graph: OnnxGraph, x: str, cos: str, sin: str, per_head: str, halves: str) -> str:
    split = graph.node("Reshape", [x, per_head], f"{x}.heads")
    first, second = graph.node_with_outputs(
        "Split", [split, halves], [f"{x}.first", f"{x}.second"], axis=-1
    )
    left = graph.node(
        "Sub",
        [
            graph.node("Mul", [first, cos], f"{x}.first_cos"),
            graph.node("Mul", [second, sin], f"{x}.second_sin"),
        ],
        f"{x}.left",
    )
    right = graph.node(
        "Add",
        [
            graph.node("Mul", [second, cos], f"{x}.second_cos"),
            graph.node("Mul", [first, sin], f"{x}.first_sin"),
        ],
        f"{x}.right",
    )
    return graph.node("Concat", [left, right], f"{x}.rotated", axis=-1)


def _queries_keys_values(fused: Linear, heads: int, head_dim: int) -> Linear:
    """Rows from per-head [q k v] to all queries, keys, values; the first two in `key_order`."""

    def reorder(rows: Array) -> Array:
        by_head = rows.reshape(heads, 3, head_dim, -1)
        order = key_order(head_dim)
        rotated = by_head[:, :2, order].transpose(1, 0, 2, 3)
        parts = (
            rotated.reshape(2 * heads * head_dim, -1),
            by_head[:, 2].reshape(-1, by_head.shape[-1]),
        )
        return np.concatenate(parts).reshape(rows.shape)

    return Linear(reorder(fused.weight), reorder(fused.bias))
