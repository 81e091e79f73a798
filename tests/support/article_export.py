"""A small folder in the format of the article's 2023 export, from a ChatGLM checkpoint's tensors.

The graphs are written here operator by operator, as the published PyTorch code traces: sequence
first, one fused projection, masked scores filled, keys and values concatenated to the history.
They share nothing with the graphs that the product exports.
"""

from __future__ import annotations

import math
from pathlib import Path
from threading import Event
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from runtime.export.converter import convert
from runtime.export.request import Encoding
from tests.support.chatglm_checkpoint import Shape

Tensors = dict[str, np.ndarray]
SPECIAL = ["[MASK]", "[gMASK]", "<unused_0>", "<sop>", "<eop>"]
EMBEDDING, VOCABULARY = "slim_word_embeddings_bf16.bin", "slim_vocab.txt"


def write_article_export(
    folder: Path,
    tensors: Tensors,
    shape: Shape,
    *,
    integer_mask: bool = True,
    precision: str = "fp32",
) -> list[str]:
    """Write every file of the export and return the vocabulary's tokens.

    ``integer_mask`` False declares the mask as float. The special tokens are the last ids, as
    `config_for` numbers them.
    """
    folder.mkdir(parents=True)
    encoding = Encoding(precision)  # type: ignore[arg-type]
    for number in range(shape.blocks):
        graph = _Graph(f"glm_block_{number}")
        _block(graph, tensors, shape, number, integer_mask)
        _convert(graph, folder / f"glm_block_{number}.mnn", encoding)
    graph = _Graph("lm")
    graph.input("hidden_states", TensorProto.FLOAT, [1, shape.hidden])
    graph.weight("lm_head", tensors["lm_head.weight"].T)
    logits = graph.node("MatMul", ["hidden_states", "lm_head"], "logits")
    graph.node("ArgMax", [logits], "token_id", axis=-1, keepdims=0)
    graph.output("token_id", TensorProto.INT64, [1])
    _convert(graph, folder / "lm.mnn", encoding)
    rows = tensors["transformer.word_embeddings.weight"].astype(ml_dtypes.bfloat16)
    (folder / EMBEDDING).write_bytes(rows.tobytes())
    tokens = vocabulary_tokens(shape.vocab)
    (folder / VOCABULARY).write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return tokens


def vocabulary_tokens(size: int) -> list[str]:
    """Tokens by id: markup, letters, a few words, and the special tokens at the end."""
    start = ["<unk>", "<s>", "</s>", "<pad>", "<n>", "<|tab|>", "<|blank_2|>", "\u2581"]
    words = [
        "\u2581the",
        "the",
        "\u2581quick",
        "你",
        "好",
        "你好",
        "？",
        "。",
        "问",
        "答",
        "：",
        "[",
        "]",
    ]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("R0123456789")
    plain = [*start, *words, *letters]
    filler = [f"\u2581w{number}" for number in range(size - len(plain) - len(SPECIAL))]
    tokens = [*plain, *filler, *SPECIAL]
    assert len(tokens) == size, "the vocabulary is too small for its tokens"
    return tokens


def _convert(graph: _Graph, path: Path, encoding: Encoding) -> None:
    onnx_path = path.with_suffix(".onnx")
    graph.write(onnx_path)
    convert(onnx_path, path, encoding, 1, Event())
    for leftover in (onnx_path, path.with_suffix(".log")):
        leftover.unlink(missing_ok=True)


def _block(graph: _Graph, tensors: Tensors, shape: Shape, number: int, integer_mask: bool) -> None:
    hidden, heads = shape.hidden, shape.heads
    dim = hidden // heads
    graph.input("inputs_embeds", TensorProto.FLOAT, ["S", 1, hidden])
    mask_type = TensorProto.INT32 if integer_mask else TensorProto.FLOAT
    graph.input("attention_mask", mask_type, [1, 1, "S", "S"])
    graph.input("position_ids", TensorProto.INT32, [1, 2, "S"])
    graph.input("past_key_values", TensorProto.FLOAT, [2, "T", 1, heads, dim])
    prefix = f"transformer.layers.{number}."

    def linear(x: str, name: str) -> str:
        graph.weight(f"{name}.w", tensors[f"{prefix}{name}.weight"].T)
        graph.weight(f"{name}.b", tensors[f"{prefix}{name}.bias"])
        product = graph.node("MatMul", [x, f"{name}.w"], f"{name}.p")
        return graph.node("Add", [product, f"{name}.b"], f"{name}.y")

    def norm(x: str, name: str) -> str:
        graph.weight(f"{name}.w", tensors[f"{name}.weight"])
        graph.weight(f"{name}.b", tensors[f"{name}.bias"])
        inputs = [x, f"{name}.w", f"{name}.b"]
        return graph.node("LayerNormalization", inputs, f"{name}.y", axis=-1, epsilon=1e-5)

    graph.scalar("alpha", math.sqrt(2 * 28))
    attended = norm("inputs_embeds", f"{prefix}input_layernorm")
    fused = linear(attended, "attention.query_key_value")
    context = _attention(graph, fused, heads, dim, integer_mask)
    attention = linear(context, "attention.dense")
    residual = graph.node("Mul", [attended, "alpha"], "residual1")
    middle = graph.node("Add", [residual, attention], "middle")
    normed = norm(middle, f"{prefix}post_attention_layernorm")
    down = linear(_gelu(graph, linear(normed, "mlp.dense_h_to_4h")), "mlp.dense_4h_to_h")
    residual = graph.node("Mul", [normed, "alpha"], "residual2")
    last = number == shape.blocks - 1
    y = graph.node("Add", [residual, down], "y" if last else "hidden_states")
    if last:  # the export keeps the final norm here, and lm.mnn is the projection alone
        graph.node("Identity", [norm(y, "transformer.final_layernorm")], "hidden_states")
    graph.output("hidden_states", TensorProto.FLOAT, ["S", 1, hidden])
    graph.output("presents", TensorProto.FLOAT, [2, "T_plus_S", 1, heads, dim])


def _attention(graph: _Graph, fused: str, heads: int, dim: int, integer_mask: bool) -> str:
    graph.integers("per_head", [0, 1, heads, 3 * dim])
    split = graph.node("Reshape", [fused, "per_head"], "fused.heads")
    query, key, value = graph.split(split, ["q", "k", "v"], dim)
    cos, sin = [], []
    for axis in (0, 1):
        angles = _angles(graph, axis, dim // 2)
        cos.append(graph.node("Cos", [angles], f"cos{axis}"))
        sin.append(graph.node("Sin", [angles], f"sin{axis}"))
    query = _rotate_2d(graph, query, cos, sin, dim)
    key = _rotate_2d(graph, key, cos, sin, dim)
    graph.integers("first_axis", [0])
    key = graph.node("Unsqueeze", [key, "first_axis"], "k.pair")
    value = graph.node("Unsqueeze", [value, "first_axis"], "v.pair")
    new = graph.node("Concat", [key, value], "new", axis=0)
    presents = graph.node("Concat", ["past_key_values", new], "presents", axis=1)
    for name, index in (("keys", 0), ("values", 1)):
        graph.constant(f"{name}.index", np.array(index, np.int64))
        graph.node("Gather", [presents, f"{name}.index"], name, axis=0)
    query = graph.node("Transpose", [query], "q.by_head", perm=[1, 2, 0, 3])
    keys = graph.node("Transpose", ["keys"], "k.by_head", perm=[1, 2, 3, 0])
    values = graph.node("Transpose", ["values"], "v.by_head", perm=[1, 2, 0, 3])
    graph.scalar("root", math.sqrt(dim))
    scores = graph.node("Div", [graph.node("MatMul", [query, keys], "qk"), "root"], "scores")
    mask = "attention_mask"
    if integer_mask:
        mask = graph.node("Cast", [mask], "mask.float", to=TensorProto.FLOAT)
    graph.scalar("hide", -10000.0)
    graph.scalar("one.mask", 1.0)
    shown = graph.node("Sub", ["one.mask", mask], "mask.shown")
    kept = graph.node("Mul", [scores, shown], "scores.kept")
    filled = graph.node("Add", [kept, graph.node("Mul", [mask, "hide"], "mask.fill")], "filled")
    chances = graph.node("Softmax", [filled], "chances", axis=-1)
    context = graph.node("MatMul", [chances, values], "context.by_head")
    context = graph.node("Transpose", [context], "context.by_token", perm=[2, 0, 1, 3])
    graph.integers("flat", [0, 1, heads * dim])
    return graph.node("Reshape", [context, "flat"], "context")


def _angles(graph: _Graph, axis: int, rotary: int) -> str:
    """[S, 1, 1, rotary]: the position of this axis times every frequency, twice in a row."""
    graph.constant(f"axis{axis}", np.array(axis, np.int64))
    where = graph.node("Gather", ["position_ids", f"axis{axis}"], f"where{axis}", axis=1)
    where = graph.node("Cast", [where], f"where{axis}.float", to=TensorProto.FLOAT)
    graph.integers(f"column{axis}", [-1, 1, 1, 1])
    column = graph.node("Reshape", [where, f"column{axis}"], f"where{axis}.column")
    frequency = 10000.0 ** (-np.arange(0, rotary, 2) / rotary)
    graph.weight(f"frequency{axis}", np.concatenate([frequency, frequency]))
    return graph.node("Mul", [column, f"frequency{axis}"], f"angles{axis}")


def _rotate_2d(graph: _Graph, x: str, cos: list[str], sin: list[str], dim: int) -> str:
    halves = graph.split(x, [f"{x}.0", f"{x}.1"], dim // 2)
    rotated = []
    for axis, half in enumerate(halves):
        first, second = graph.split(half, [f"{half}.a", f"{half}.b"], dim // 4)
        negative = graph.node("Neg", [second], f"{half}.neg")
        turned = graph.node("Concat", [negative, first], f"{half}.turned", axis=-1)
        straight = graph.node("Mul", [half, cos[axis]], f"{half}.cos")
        crossed = graph.node("Mul", [turned, sin[axis]], f"{half}.sin")
        rotated.append(graph.node("Add", [straight, crossed], f"{half}.rotated"))
    return graph.node("Concat", rotated, f"{x}.rotated", axis=-1)


def _gelu(graph: _Graph, u: str) -> str:
    # x * sigmoid(2z) is the tanh form exactly, and MNN does not replace it by its approximation.
    graph.scalar("gelu.c", 2 * math.sqrt(2 / math.pi) * 0.044715)
    graph.scalar("gelu.d", 2 * math.sqrt(2 / math.pi))
    square = graph.node("Mul", [u, u], "gelu.square")
    scaled = graph.node("Mul", [square, "gelu.c"], "gelu.scaled")
    factor = graph.node("Add", [scaled, "gelu.d"], "gelu.factor")
    inner = graph.node("Mul", [u, factor], "gelu.inner")
    return graph.node("Mul", [u, graph.node("Sigmoid", [inner], "gelu.gate")], "gelu")


class _Graph:
    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: int, dims: list[int | str]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, kind, dims))

    def output(self, name: str, kind: int, dims: list[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, dims))

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def split(self, x: str, outputs: list[str], size: int) -> list[str]:
        self.integers(f"{x}.sizes", [size] * len(outputs))
        node = helper.make_node("Split", [x, f"{x}.sizes"], outputs, f"{x}.split", axis=-1)
        self._nodes.append(node)
        return outputs

    def constant(self, name: str, array: np.ndarray) -> None:
        self._constants.append(numpy_helper.from_array(np.array(array, order="C"), name))

    def weight(self, name: str, array: np.ndarray) -> None:
        self.constant(name, array.astype(np.float32))

    def scalar(self, name: str, value: float) -> None:
        self.constant(name, np.array(value, np.float32))

    def integers(self, name: str, values: list[int]) -> None:
        self.constant(name, np.array(values, np.int64))

    def write(self, path: Path) -> None:
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, self._constants
        )
        opset = [helper.make_opsetid("", 17)]
        save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
