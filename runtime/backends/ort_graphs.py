"""Graphs for devices with memory of their own: blocks that write their cache in place, and copies.

A bundle's block returns new keys and values. `device_block` adds operators that put them into the
cache: keys and values lie flat, and ScatterND with its output bound to its input's memory writes
the new slots and touches nothing else. It may run before attention has read the cache, which then
sees the new slots; the mask hides them there.

"Keys" here and in `ort_device` are flat [rows x kv_heads x head_dim x capacity, 1], values
[rows x kv_heads x capacity, head_dim].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scheduler.errors import EngineError

_OPSET = 17
_IR_VERSION = 8


def device_block(path: Path, half: bool) -> bytes:
    """The block in this file with its cache as memory to write into.

    For keys (``_k``) and values (``_v``): ``past`` is what attention reads, ``cache`` what is
    written and returned as ``next``, both flat. ``picks`` [new] int64 number the rows of the flat
    new keys or values to be written, ``slots`` [new, 1] where each goes. All else is as in the
    bundle's block. With ``half``, constants stored as fp16 are multiplied as fp16.
    """
    model = load_graph(path)
    graph = model.graph
    dims = {
        one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in graph.input
    }
    _, heads, head_dim, _ = dims["past_k"]
    if half:
        _multiply_in_half(graph)
    kept_inputs = [one for one in graph.input if one.name not in ("past_k", "past_v")]
    kept_outputs = list(graph.output)
    constants = [
        _integers("device.row", [0]),
        _integers("device.row_end", [1]),
        _integers("device.keys_tail", [heads, head_dim, -1]),
        _integers("device.values_tail", [heads, -1, head_dim]),
        _integers("device.flat_keys", [-1, 1]),
        _integers("device.flat_values", [-1, head_dim]),
    ]
    before = [
        helper.make_node("Shape", ["x"], ["device.x_shape"]),
        helper.make_node("Slice", ["device.x_shape", "device.row", "device.row_end"], ["device.b"]),
    ]
    after = []
    for part, new in (("keys", "new_k"), ("values", "new_v")):
        side = new[-1]
        past, cache, following = f"past_{side}", f"cache_{side}", f"next_{side}"
        shape = f"device.{part}_shape"
        before += [
            helper.make_node("Concat", ["device.b", f"device.{part}_tail"], [shape], axis=0),
            helper.make_node("Reshape", [past, shape], [f"{past}.4d"]),
        ]
        after += [
            helper.make_node("Reshape", [new, f"device.flat_{part}"], [f"{new}.flat"]),
            helper.make_node("Gather", [f"{new}.flat", f"picks_{side}"], [f"{new}.picked"]),
            helper.make_node("ScatterND", [cache, f"slots_{side}", f"{new}.picked"], [following]),
        ]
        width = 1 if part == "keys" else head_dim
        kept_inputs += [
            helper.make_tensor_value_info(past, TensorProto.FLOAT, [f"{past}_rows", width]),
            helper.make_tensor_value_info(cache, TensorProto.FLOAT, [f"{cache}_rows", width]),
            helper.make_tensor_value_info(f"picks_{side}", TensorProto.INT64, [f"new_{side}"]),
            helper.make_tensor_value_info(f"slots_{side}", TensorProto.INT64, [f"new_{side}", 1]),
        ]
        kept_outputs.append(
            helper.make_tensor_value_info(following, TensorProto.FLOAT, [f"{cache}_rows", width])
        )
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in ("past_k", "past_v"):
                node.input[index] = f"{name}.4d"
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.extend(kept_inputs)
    graph.output.extend(kept_outputs)
    return bytes(model.SerializeToString())


def device_lm_head(path: Path, half: bool) -> bytes:
    """The lm_head in this file; `half` as for `device_block`."""
    model = load_graph(path)
    if half:
        _multiply_in_half(model.graph)
    return bytes(model.SerializeToString())


def copies(ranks: dict[str, int]) -> bytes:
    """A graph that copies fp32 inputs of these ranks to outputs ``on_device.<name>``."""
    nodes, inputs, outputs = [], [], []
    for name, rank in ranks.items():
        dims = [f"{name}_{axis}" for axis in range(rank)]
        nodes.append(helper.make_node("Identity", [name], [f"on_device.{name}"]))
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        outputs.append(helper.make_tensor_value_info(f"on_device.{name}", TensorProto.FLOAT, dims))
    return _model(nodes, inputs, outputs, [])


def rearrange() -> bytes:
    """A graph that gives a flat cache other rows and another capacity.

    ``cache`` is seen as ``view`` (rows, then what is not slots, then slots), padded by ``pads``
    (ONNX's six numbers, of which negative ones cut), its rows ``picked``, and flattened to
    ``flat``: ``made``.
    """
    nodes = [
        helper.make_node("Reshape", ["cache", "view"], ["seen"]),
        helper.make_node("Pad", ["seen", "pads"], ["padded"]),
        helper.make_node("Gather", ["padded", "picked"], ["rows"], axis=0),
        helper.make_node("Reshape", ["rows", "flat"], ["made"]),
    ]
    inputs = [helper.make_tensor_value_info("cache", TensorProto.FLOAT, ["cache_rows", "width"])]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.INT64, [size])
        for name, size in (("view", 3), ("pads", 6), ("picked", "new_rows"), ("flat", 2))
    ]
    outputs = [helper.make_tensor_value_info("made", TensorProto.FLOAT, ["made_rows", "width"])]
    return _model(nodes, inputs, outputs, [])


def place() -> bytes:
    """A graph that puts new keys or values of one row into a flat cache: ``made``.

    ``new`` is seen as ``new_view`` and padded with zeros by ``pads`` to the cache's ``view``;
    ``keep`` is 0 where it goes, and 1 elsewhere.
    """
    nodes = [
        helper.make_node("Reshape", ["cache", "view"], ["seen"]),
        helper.make_node("Reshape", ["new", "new_view"], ["new_seen"]),
        helper.make_node("Pad", ["new_seen", "pads"], ["placed"]),
        helper.make_node("Mul", ["seen", "keep"], ["kept"]),
        helper.make_node("Add", ["kept", "placed"], ["whole"]),
        helper.make_node("Reshape", ["whole", "flat"], ["made"]),
    ]
    dims: dict[str, list[int | str]] = {
        "cache": ["cache_rows", "width"],
        "new": [1, "heads", "a", "b"],
        "keep": ["rows", 1, "slots"],
    }
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, one) for name, one in dims.items()
    ]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.INT64, [size])
        for name, size in (("view", 3), ("new_view", 3), ("pads", 6), ("flat", 2))
    ]
    outputs = [helper.make_tensor_value_info("made", TensorProto.FLOAT, ["cache_rows", "width"])]
    return _model(nodes, inputs, outputs, [])


def half_product() -> bytes:
    """A graph that multiplies ``x`` [1, 32] by ones [32, 32] in fp16; 32 everywhere for ones."""
    ones = numpy_helper.from_array(np.ones((32, 32), np.float16), "ones")
    nodes = [
        helper.make_node("Cast", ["x"], ["x_fp16"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x_fp16", "ones"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in "xy")
    return _model(nodes, [x], [y], [ones])


def _multiply_in_half(graph: onnx.GraphProto) -> None:
    """Multiply by constants that are stored as fp16 in fp16, instead of widening them."""
    stored = {one.name for one in graph.initializer if one.data_type == TensorProto.FLOAT16}
    widened = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in stored
    }
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in widened:
            continue
        if node.op_type != "MatMul" or node.input[1] not in widened:
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        halved, product = f"{y}.x_fp16", f"{y}.fp16"
        nodes += [
            helper.make_node("Cast", [x], [halved], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", [halved, widened[node.input[1]]], [product], name=y),
            helper.make_node("Cast", [product], [y], to=TensorProto.FLOAT),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def load_graph(path: Path) -> onnx.ModelProto:
    """The graph in this file, without its weights; EngineError when it is none."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise EngineError(
            f"{path} is not a readable ONNX file; check the bundle with `glm-plan bundle --verify`."
        ) from error


def weights_bytes(path: Path) -> int:
    """Bytes of the weights beside the graph in this file, as they are stored."""
    entries = (entry for one in load_graph(path).graph.initializer for entry in one.external_data)
    return sum(int(entry.value) for entry in entries if entry.key == "length")


def _integers(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> bytes:
    graph = helper.make_graph(nodes, "device", inputs, outputs, constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())
