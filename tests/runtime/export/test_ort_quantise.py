"""Our quantised weights against a plain decoder of the documented layout, and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime.export.ort_quantise import dequantised, quantise_rows

onnxruntime = pytest.importorskip("onnxruntime")


def decoded(quantised, bits, inner, block):
    """Values one by one: (code - zero point) x scale, low half of a byte first."""
    rows, _blocks = quantised.scales.shape
    values = np.empty((rows, inner))
    per_byte = 8 // bits
    top = (1 << bits) - 1
    for row in range(rows):
        for column in range(inner):
            group, at = divmod(column, block)
            byte = quantised.codes[row, group, at // per_byte]
            code = (int(byte) >> bits * (at % per_byte)) & top
            zero_byte = quantised.zero_points[row, group // per_byte]
            zero = (int(zero_byte) >> bits * (group % per_byte)) & top
            values[row, column] = (code - zero) * float(quantised.scales[row, group])
    return values


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    inner=st.integers(1, 200),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64, 128]),
    shift=st.sampled_from([0.0, 3.0, -3.0]),
)
@settings(max_examples=40, deadline=None)
def test_every_value_is_within_half_a_step(seed, rows, inner, bits, block, shift):
    random = np.random.default_rng(seed)
    weights = (random.standard_normal((rows, inner)) + shift).astype(np.float32)
    weights[random.random(weights.shape) < 0.1] = 0
    quantised = quantise_rows(weights, bits, block)
    found = decoded(quantised, bits, inner, block)
    step = np.repeat(quantised.scales, block, axis=1)[:, :inner]
    # The zero point is rounded as well, which may move the end of the range by half a step.
    assert (np.abs(found - weights) <= step * 1.001).all()
    assert (found[weights == 0] == 0).all()
    np.testing.assert_allclose(dequantised(quantised, bits, inner), found, rtol=1e-6)


def test_zeros_stay_zeros():
    quantised = quantise_rows(np.zeros((2, 64), np.float32), 4, 32)
    assert not dequantised(quantised, 4, 64).any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("inner", "block"), [(64, 16), (256, 128), (96, 32), (40, 32)])
def test_onnx_runtime_multiplies_by_the_same_values(bits, inner, block):
    random = np.random.default_rng(5)
    weights = random.standard_normal((24, inner), np.float32)
    x = random.standard_normal((3, inner), np.float32)
    quantised = quantise_rows(weights, bits, block)
    names = ["codes", "scales", "zero_points"]
    node = helper.make_node(
        "MatMulNBits",
        ["x", *names],
        ["y"],
        domain="com.microsoft",
        K=inner,
        N=24,
        bits=bits,
        block_size=block,
        accuracy_level=0,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 24])],
        [numpy_helper.from_array(getattr(quantised, name), name) for name in names],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = x.astype(np.float64) @ decoded(quantised, bits, inner, block).T
    found = session.run(None, {"x": x})[0]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
