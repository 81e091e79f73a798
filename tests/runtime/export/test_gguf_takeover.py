"""Integers of GGUF files in MNN's own files: converted by MNN, replaced by us, run by MNN."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from runtime.export.converter import convert
from runtime.export.decoder_graph import write_decoder_block, write_decoder_head
from runtime.export.gguf_source import GgufSource
from runtime.export.gguf_takeover import take_over
from runtime.export.mnn_layers import quantised_layers, read_rows
from runtime.export.request import Encoding
from runtime.export.weight_source import expected_shapes
from runtime.step_inputs import Row, attention_mask
from scheduler.errors import BundleError
from tests.reference import decoder_numpy as reference
from tests.support.gguf_files import SMALL, write_gguf
from tests.support.mnn_part import MnnPart

EXACT = {"Q4_0": "int4", "Q4_1": "int4", "Q5_0": "int8", "Q5_1": "int8", "Q8_0": "int8"}
ROUNDED = {"Q4_K": "int4", "Q5_K": "int8"}
INPUTS = ["x", "mask", "cos", "sin", "past_k", "past_v"]


def converted_block(folder, types, precision, architecture="llama", block=32):
    """A model of these types, and its block 0 as the converter quantises it."""
    write_gguf(folder / "m.gguf", architecture, types=types)
    source = GgufSource(folder / "m.gguf")
    write_decoder_block(folder / "block.onnx", source, source.config, 0)
    convert(folder / "block.onnx", folder / "b.mnn", Encoding(precision, block), 1, Event())
    return source, folder / "b.mnn"


def output(path, config, x):
    """What MNN computes for a prompt with the weights of the file, expanded to fp32."""
    tokens, dim = len(x), config.rotary.dim
    angle = np.arange(tokens)[:, None] * config.rotary.base ** (-np.arange(0, dim, 2) / dim)
    found = MnnPart(path, INPUTS, ["y", "new_k", "new_v"])(
        x=x[None],
        mask=attention_mask([Row(0, 0, 0)], tokens, 0),
        cos=np.cos(angle)[None, None],
        sin=np.sin(angle)[None, None],
        past_k=np.zeros((1, config.kv_heads, config.head_dim, 0)),
        past_v=np.zeros((1, config.kv_heads, 0, config.head_dim)),
    )
    return found["y"][0]


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("architecture", ["llama", "chatglm", "glm4", "qwen2", "qwen3"])
@pytest.mark.parametrize("type_name", EXACT | ROUNDED)
def test_mnn_runs_the_very_weights_of_the_file(type_name, architecture, tmp_path):
    types = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_"), type_name)
    types = {"norm": "F32", "bias": "F32"} | types
    precision = (EXACT | ROUNDED)[type_name]
    source, path = converted_block(tmp_path, types, precision, architecture)
    tensors = {name: source.tensor(name) for name in expected_shapes(source.config)}
    x = np.random.default_rng(1).normal(size=(9, 256)).astype(np.float32)
    expected = reference.block(x.astype(float), tensors, source.config, 0)
    result = take_over(source, "block_0", path)
    matrices = {name for name, one in tensors.items() if "blocks.0" in name and one.ndim == 2}
    assert result.how == dict.fromkeys(
        matrices, "exact" if type_name in EXACT else "rounded scales"
    )
    assert result.rounding < (1e-9 if type_name in EXACT else 4e-4)
    assert error(output(path, source.config, x), expected) < (1e-5 if type_name in EXACT else 1e-3)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_1", "Q8_0"])
def test_mnn_expands_them_bit_by_bit(type_name, tmp_path):
    source, path = converted_block(tmp_path, {"ffn_up": type_name}, "int8")
    how = take_over(source, "block_0", path).how
    assert [name for name, one in how.items() if one == "exact"] == ["blocks.0.up.weight"]
    assert Counter(how.values()) == {"exact": 1, "requantised": 6}
    layer = quantised_layers(path)["up"]
    found = read_rows(path.with_name("b.mnn.weight"), layer, 0, layer.rows)
    np.testing.assert_array_equal(found.values(), source.tensor("blocks.0.up.weight"))


@pytest.mark.parametrize("type_name", EXACT)
@pytest.mark.parametrize("tied", [True, False])
def test_lm_head_with_more_groups_than_16_bits_count(type_name, tied, tmp_path):
    config = replace(SMALL, vocab_size=8992, tied_embeddings=tied)
    types = {"token_embd" if tied else "output.": type_name}
    write_gguf(tmp_path / "m.gguf", types=types, config=config)
    source = GgufSource(tmp_path / "m.gguf")
    write_decoder_head(tmp_path / "h.onnx", source, source.config)
    path = tmp_path / "h.mnn"
    convert(tmp_path / "h.onnx", path, Encoding(EXACT[type_name], 32), 1, Event())
    name = "embedding.weight" if tied else "lm_head.weight"
    assert take_over(source, "lm_head", path).how == {name: "exact"}
    x = np.random.default_rng(2).normal(size=(1, 1, 256)).astype(np.float32)
    found = MnnPart(path, ["x"], ["logits"])(x=x)["logits"][0, 0]
    normed = reference.rms_norm(x[0, 0].astype(float), source.tensor("final_norm.weight"), 1e-5)
    assert error(found, source.tensor(name).astype(float) @ normed) < 1e-6


def test_what_does_not_fit_is_left_as_the_converter_wrote_it(tmp_path):
    source, path = converted_block(tmp_path, {"ffn_up": "Q8_0", "ffn_gate": "Q6_K"}, "int4")
    before = [file.read_bytes() for file in (path, path.with_name("b.mnn.weight"))]
    assert set(take_over(source, "block_0", path).how.values()) == {"requantised"}
    assert [file.read_bytes() for file in (path, path.with_name("b.mnn.weight"))] == before


def test_groups_of_another_size_are_left_alone(tmp_path):
    source, path = converted_block(tmp_path, {"ffn_": "Q4_1"}, "int4", block=64)
    assert set(take_over(source, "block_0", path).how.values()) == {"requantised"}


def test_an_id_of_its_own(tmp_path):
    """MNN names its caches by the id, so another content needs another id."""
    source, path = converted_block(tmp_path, {"ffn_": "Q4_0"}, "int4")
    before = path.read_bytes()
    take_over(source, "block_0", path)
    assert path.read_bytes() != before


def test_a_file_of_another_model_is_refused(tmp_path):
    source, _ = converted_block(tmp_path, {"ffn_": "Q4_0"}, "int4")
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(other / "m.gguf", types={"ffn_": "Q4_0"}, config=replace(SMALL, norm_epsilon=1e-6))
    scrambled = GgufSource(other / "m.gguf")
    write_decoder_block(other / "block.onnx", scrambled, scrambled.config, 1)  # not block 0
    convert(other / "block.onnx", other / "b.mnn", Encoding("int4", 32), 1, Event())
    with pytest.raises(BundleError, match="holds other weights than the model's"):
        take_over(source, "block_0", other / "b.mnn")


@pytest.mark.parametrize("harm", ["fp32", "symmetric", "cut"])
def test_a_file_of_another_form_is_refused(harm, tmp_path, monkeypatch):
    source, path = converted_block(tmp_path, {"ffn_": "Q4_0"}, "int4")
    if harm == "fp32":
        convert(tmp_path / "block.onnx", path, Encoding("fp32"), 1, Event())
        sentence = "has no quantised layer query"
    elif harm == "symmetric":
        flags = ["--weightQuantBits", "4", "--weightQuantBlock", "32", "--weightQuantAsymmetric"]
        monkeypatch.setattr("runtime.export.converter._flags", lambda _: flags)
        convert(tmp_path / "block.onnx", path, Encoding("int4", 32), 1, Event())
        sentence = "no minimum and scale in fp16"
    else:
        path.write_bytes(path.read_bytes()[:900])
        sentence = "not built as MNN 3.6.1 builds it"
    with pytest.raises(BundleError, match=sentence):
        take_over(source, "block_0", path)
