"""A real model, SmolLM2 at Q4_1, against the gguf package and against NumPy."""

from __future__ import annotations

from threading import Event

import gguf
import numpy as np
import pytest

from runtime.export.converter import convert
from runtime.export.decoder_graph import write_decoder_block, write_decoder_head
from runtime.export.gguf_header import read_gguf_header
from runtime.export.gguf_source import GgufSource
from runtime.export.gguf_stored import GgufStored
from runtime.export.mnn_layers import quantised_layers, read_rows
from runtime.export.request import Encoding
from runtime.export.weight_source import expected_shapes
from runtime.rotary import Rotary
from runtime.step_inputs import Row, attention_mask
from tests.reference import decoder_numpy as reference
from tests.support.gguf_files import file_name
from tests.support.mnn_part import MnnPart
from tests.support.smollm2 import smollm2_gguf


@pytest.fixture(scope="module")
def path():
    return smollm2_gguf()


@pytest.fixture(scope="module")
def source(path):
    return GgufSource(path)


@pytest.fixture(scope="module")
def package(path):
    """The file as the gguf package reads it."""
    return gguf.GGUFReader(path)


def test_the_header_is_what_the_gguf_package_reads(path, package):
    header = read_gguf_header(path)
    own = {name for name in package.fields if name.startswith("GGUF.")}
    assert header.metadata == {
        name: field.contents() for name, field in package.fields.items() if name not in own
    }
    assert list(header.tensors) == [one.name for one in package.tensors]
    for one in package.tensors:
        tensor = header.tensors[one.name]
        assert (tensor.type_name, tensor.shape) == (one.tensor_type.name, tuple(one.shape))
        assert (tensor.start, tensor.size_bytes) == (one.data_offset, one.n_bytes)


def test_the_configuration_is_that_of_the_published_model(source):
    """As config.json of HuggingFaceTB/SmolLM2-135M-Instruct states it."""
    config = source.config
    assert (config.hidden_size, config.ffn_size, config.blocks) == (576, 1536, 30)
    assert (config.heads, config.kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.vocab_size, config.max_context) == (49152, 8192)
    assert config.norm_epsilon == np.float32(1e-5)
    assert config.tied_embeddings
    assert config.rotary == Rotary("neighbours", 64, 100000.0)
    assert 2 in config.stop_ids


def test_every_tensor_is_what_the_gguf_package_dequantises(source, package):
    stored = {one.name: one for one in package.tensors}
    for name in expected_shapes(source.config):
        one = stored[file_name(name)]
        expected = gguf.quants.dequantize(one.data, one.tensor_type)
        np.testing.assert_array_equal(source.tensor(name), expected)


def test_it_is_exported_as_it_is_stored(source):
    stored = GgufStored(source)
    assert (stored.precision("block_0"), stored.weight_block("block_0", "int4")) == ("int4", 32)
    assert (stored.precision("lm_head"), stored.weight_block("lm_head", "int8")) == ("int8", 32)
    assert stored.weight_block("block_0", "fp16") is None


def test_a_block_in_mnn_has_the_very_weights(source, tmp_path):
    config, path = source.config, tmp_path / "b.mnn"
    write_decoder_block(tmp_path / "b.onnx", source, config, 7)
    convert(tmp_path / "b.onnx", path, Encoding("int4", 32), 1, Event())
    made = GgufStored(source).take_over("block_7", path)
    assert [(one.type, one.how, one.matrices) for one in made] == [("Q4_1", "exact", 7)]
    prefix = "blocks.7."
    names = [name for name in expected_shapes(config) if name.startswith(prefix)]
    tensors = {name: source.tensor(name) for name in names}
    x = np.random.default_rng(0).normal(size=(12, config.hidden_size)).astype(np.float32)
    angle = np.arange(12)[:, None] * config.rotary.base ** (-np.arange(0, 64, 2) / 64)
    found = MnnPart(path, ["x", "mask", "cos", "sin", "past_k", "past_v"], ["y"])(
        x=x[None],
        mask=attention_mask([Row(0, 0, 0)], 12, 0),
        cos=np.cos(angle)[None, None],
        sin=np.sin(angle)[None, None],
        past_k=np.zeros((1, 3, 64, 0)),
        past_v=np.zeros((1, 3, 0, 64)),
    )["y"][0]
    expected = reference.block(x.astype(float), tensors, config, 7)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5


def test_the_tied_lm_head_in_mnn_is_the_embedding(source, tmp_path):
    path = tmp_path / "h.mnn"
    write_decoder_head(tmp_path / "h.onnx", source, source.config)
    convert(tmp_path / "h.onnx", path, Encoding("int8", 32), 1, Event())
    made = GgufStored(source).take_over("lm_head", path)
    assert [(one.type, one.how, one.matrices) for one in made] == [("Q8_0", "exact", 1)]
    layer = quantised_layers(path)["logits"]
    found = read_rows(path.with_name("h.mnn.weight"), layer, 0, layer.rows)
    np.testing.assert_array_equal(found.values(), source.tensor("embedding.weight"))
