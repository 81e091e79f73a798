"""The ONNX graph of one block of a decoder with RMS norms, gated SiLU MLP and grouped queries.

That is the block of ChatGLM2 and 3, GLM-4, Llama, Mistral, Qwen2 and Qwen3; `block_graph` holds
ChatGLM-6B's. Inputs and outputs have the same names and meaning, but here ``cos`` and ``sin`` are
[B, 1, S, rotary dim / 2], and ``past_k``, ``past_v``, ``new_k`` and ``new_v`` have kv_heads heads.
The queries of a group are laid out as more positions of their shared head, so keys and values are
never repeated.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.export.block_graph import half_factors
from runtime.export.decoder_config import DecoderConfig
from runtime.export.onnx_graph import OnnxGraph
from runtime.export.weight_source import Array, WeightSource
from scheduler.errors import CheckpointError


def head_order(config: DecoderConfig) -> npt.NDArray[np.intp]:
    """Where each element of a head's query or key in our order stands in the source's order.

    Ours rotates i and i + dim / 2 together; scores don't depend on the order.
    """
    order = np.arange(config.head_dim)
    if config.rotary.pairing == "neighbours":
        dim = config.rotary.dim
        order[:dim] = order[:dim].reshape(-1, 2).T.reshape(-1)
    return order


def write_decoder_block(
    path: Path, source: WeightSource, config: DecoderConfig, number: int
) -> None:
    """Write the graph of block ``number`` to ``path`` and its weights to ``<path>.data``.

    Raises CheckpointError for a block that this graph cannot express.
    """
    form = (config.norm, config.activation, config.gated_mlp, config.residual, config.mask)
    if form != ("rms", "silu", True, "plain", "causal") or config.rotary.pairing == "two_halves":
        raise CheckpointError(
            f"{config.name} has blocks of another form than RMS norms, a gated SiLU MLP, plain"
            " residuals and causal attention; this graph expresses no other."
        )
    with OnnxGraph(path, "block") as graph:
        _declare(graph, config)
        block = _Block(graph, source, config, f"blocks.{number}.")
        attention = block.attention(block.rms_norm("x", "input_norm"))
        if config.sandwich_norms:
            attention = block.rms_norm(attention, "attention_output_norm")
        middle = graph.node("Add", ["x", attention], "h")
        mlp = block.mlp(block.rms_norm(middle, "post_attention_norm"))
        if config.sandwich_norms:
            mlp = block.rms_norm(mlp, "mlp_output_norm")
        graph.node("Add", [middle, mlp], "y")


def write_decoder_head(path: Path, source: WeightSource, config: DecoderConfig) -> None:
    """Write final norm and lm_head: ``x`` [B, 1, hidden] to ``logits`` [B, 1, vocab], fp32."""
    with OnnxGraph(path, "lm_head") as graph:
        graph.input("x", ["B", 1, config.hidden_size])
        graph.output("logits", ["B", 1, config.vocab_size])
        normed = _Block(graph, source, config, "").rms_norm("x", "final_norm")
        matrix = source.tensor(f"{'embedding' if config.tied_embeddings else 'lm_head'}.weight")
        matrix_name = graph.transposed_weight("lm_head.weight", matrix)
        graph.node("MatMul", [normed, matrix_name], "logits")


def _declare(graph: OnnxGraph, config: DecoderConfig) -> None:
    kv_heads, dim, hidden = config.kv_heads, config.head_dim, config.hidden_size
    graph.input("x", ["B", "S", hidden])
    graph.input("mask", ["B", 1, "S", "T_plus_S"])
    graph.input("cos", ["B", 1, "S", config.rotary.dim // 2])
    graph.input("sin", ["B", 1, "S", config.rotary.dim // 2])
    graph.input("past_k", ["B", kv_heads, dim, "T"])
    graph.input("past_v", ["B", kv_heads, "T", dim])
    graph.output("y", ["B", "S", hidden])
    graph.output("new_k", ["B", kv_heads, dim, "S"])
    graph.output("new_v", ["B", kv_heads, "S", dim])


class _Block:
    """The graph being built, and where its weights come from."""

    def __init__(
        self, graph: OnnxGraph, source: WeightSource, config: DecoderConfig, prefix: str
    ) -> None:
        self.graph, self.source, self.config, self.prefix = graph, source, config, prefix
        self.order = head_order(config)

    def rms_norm(self, x: str, name: str, order: npt.NDArray[np.intp] | None = None) -> str:
        weight = self.source.tensor(f"{self.prefix}{name}.weight")
        node, scalar = self.graph.node, self.graph.scalar
        square = node("Mul", [x, x], f"{name}.square")
        mean = node("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        epsilon = scalar(f"{name}.epsilon", self.config.norm_epsilon)
        root = node("Sqrt", [node("Add", [mean, epsilon], f"{name}.shifted")], f"{name}.root")
        normed = node("Div", [x, root], f"{name}.normed")
        factor = self.graph.weight(f"{name}.weight", weight if order is None else weight[order])
        return node("Mul", [normed, factor], name)

    def linear(self, x: str, name: str, bias: bool, heads: int | None = None) -> str:
        """A linear layer; ``heads`` tells how many heads its rows hold, to be put in our order."""
        weight = self._rows(f"{name}.weight", heads)
        matrix = self.graph.transposed_weight(f"{name}.weight", weight)
        if not bias:
            return self.graph.node("MatMul", [x, matrix], name)
        product = self.graph.node("MatMul", [x, matrix], f"{name}.product")
        shift = self.graph.weight(f"{name}.bias", self._rows(f"{name}.bias", heads))
        return self.graph.node("Add", [product, shift], name)

    def _rows(self, name: str, heads: int | None) -> Array:
        rows = self.source.tensor(self.prefix + name)
        if heads is None:
            return rows
        return rows.reshape(heads, self.config.head_dim, -1)[:, self.order].reshape(rows.shape)

    def mlp(self, x: str) -> str:
        bias = self.config.mlp_bias
        gate = self.linear(x, "gate", bias)
        gate = self.graph.node("Mul", [gate, self.graph.node("Sigmoid", [gate], "gate.s")], "silu")
        gated = self.graph.node("Mul", [gate, self.linear(x, "up", bias)], "gated")
        return self.linear(gated, "down", bias)

    def attention(self, x: str) -> str:
        graph, config = self.graph, self.config
        query = self._heads(self.linear(x, "query", config.qkv_bias, config.heads), config.heads)
        key = self._heads(self.linear(x, "key", config.qkv_bias, config.kv_heads), config.kv_heads)
        value = self._heads(self.linear(x, "value", config.qkv_bias), config.kv_heads)
        if config.qk_norm:
            query = self.rms_norm(query, "q_norm", self.order)
            key = self.rms_norm(key, "k_norm", self.order)
        query = graph.node("Transpose", [query], "query.by_head", perm=[0, 2, 1, 3])
        key = graph.node("Transpose", [key], "key.by_head", perm=[0, 2, 1, 3])
        query, key = self._rotate(query, "query"), self._rotate(key, "key")
        for part, factor in enumerate(half_factors(1 / math.sqrt(config.head_dim))):
            query = graph.node(
                "Mul", [query, graph.scalar(f"scale.{part}", factor)], f"query.{part}"
            )
        new_k = graph.node("Transpose", [key], "new_k", perm=[0, 1, 3, 2])
        new_v = graph.node("Transpose", [value], "new_v", perm=[0, 2, 1, 3])
        context = self._attend(query, new_k, new_v)
        context = graph.node("Transpose", [context], "context.by_position", perm=[0, 2, 1, 3])
        flat = graph.integers("flat", [0, 0, config.heads * config.head_dim])
        context = graph.node("Reshape", [context, flat], "context.flat")
        return self.linear(context, "attention_output", config.attention_output_bias)

    def _heads(self, x: str, heads: int) -> str:
        shape = self.graph.integers(f"{x}.shape", [0, 0, heads, self.config.head_dim])
        return self.graph.node("Reshape", [x, shape], f"{x}.heads")

    def _rotate(self, x: str, name: str) -> str:
        graph, rotary = self.graph, self.config.rotary
        sizes = [rotary.dim // 2, rotary.dim // 2]
        names = [f"{name}.first", f"{name}.second"]
        if self.config.head_dim > rotary.dim:
            sizes.append(self.config.head_dim - rotary.dim)
            names.append(f"{name}.still")
        lengths = graph.integers(f"{name}.parts", sizes)
        first, second, *still = graph.node_with_outputs("Split", [x, lengths], names, axis=-1)
        products = {
            (half, table): graph.node("Mul", [half, table], f"{half}_{table}")
            for half in (first, second)
            for table in ("cos", "sin")
        }
        left = [products[first, "cos"], products[second, "sin"]]
        right = [products[second, "cos"], products[first, "sin"]]
        turned = [
            graph.node("Sub", left, f"{name}.left"),
            graph.node("Add", right, f"{name}.right"),
        ]
        return graph.node("Concat", turned + still, f"{name}.rotated", axis=-1)

    def _attend(self, query: str, new_k: str, new_v: str) -> str:
        graph, config = self.graph, self.config
        node, integers = graph.node, graph.integers
        grouped = integers("grouped", [0, config.kv_heads, -1, config.head_dim])
        query = node("Reshape", [query, grouped], "query.grouped")
        old = node("MatMul", [query, "past_k"], "scores.past")
        new = node("MatMul", [query, new_k], "scores.new")
        scores = node("Concat", [old, new], "scores", axis=-1)
        # The mask knows S and T + S: [B, heads, S, T + S] for the softmax, by group around it.
        zero, two = integers("zero", [0]), integers("two", [2])
        three, four = integers("three", [3]), integers("four", [4])
        shape = node("Shape", ["mask"], "mask.shape")
        tokens = node("Slice", [shape, two, four, zero], "mask.tokens")
        by_head = node(
            "Concat", [zero, integers("heads", [config.heads]), tokens], "heads.shape", axis=0
        )
        scores = node("Reshape", [scores, by_head], "scores.by_head")
        scores = node("Add", [scores, "mask"], "scores.masked")
        probabilities = node("Softmax", [scores], "probabilities", axis=-1)
        width = node("Slice", [shape, three, four, zero], "mask.width")
        group = integers("group", [0, config.kv_heads, -1])
        by_group = node("Concat", [group, width], "groups.shape", axis=0)
        probabilities = node("Reshape", [probabilities, by_group], "probabilities.grouped")
        cached_shape = node("Shape", ["past_k"], "past_k.shape")
        cached = node("Slice", [cached_shape, three, four, zero], "cached")
        end = integers("end", [2**31 - 1])
        old = node("Slice", [probabilities, zero, cached, three], "probabilities.past")
        new = node("Slice", [probabilities, cached, end, three], "probabilities.new")
        old = node("MatMul", [old, "past_v"], "context.past")
        new = node("MatMul", [new, new_v], "context.new")
        context = node("Add", [old, new], "context.grouped")
        apart = integers("apart", [0, config.heads, -1, config.head_dim])
        return node("Reshape", [context, apart], "context")
