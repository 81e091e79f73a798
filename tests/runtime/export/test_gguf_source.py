"""GGUF models written by the gguf package, read back against its own arithmetic."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from runtime.export.gguf_integers import BITS
from runtime.export.gguf_source import GgufSource
from runtime.export.weight_source import expected_shapes
from scheduler.errors import CheckpointError
from tests.reference import decoder_numpy as reference
from tests.support.gguf_files import CONFIGS, SMALL, file_tensors, random_weights, write_gguf

PLAIN = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def stored_in(path):
    """Every tensor of a file as the gguf package dequantises it."""
    return {
        one.name: gguf.quants.dequantize(one.data, one.tensor_type)
        for one in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("architecture", CONFIGS)
def test_weights_of_every_architecture_come_back_by_canonical_name(architecture, tmp_path):
    config = CONFIGS[architecture]
    weights = random_weights(config)
    write_gguf(tmp_path / "m.gguf", architecture, weights=weights)
    source = GgufSource(tmp_path / "m.gguf")
    assert replace(source.config, norm_epsilon=config.norm_epsilon) == replace(config, name="m")
    for name, expected in weights.items():
        np.testing.assert_array_equal(source.tensor(name), expected)
        if expected.ndim == 2:
            np.testing.assert_array_equal(source.rows(name, 3, 9), expected[3:9])


@pytest.mark.parametrize("type_name", PLAIN + K_QUANTS)
def test_every_type_is_dequantised_as_the_gguf_package_does(type_name, tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, types=dict.fromkeys(("attn_q.", "attn_v", "ffn", "token_embd"), type_name))
    source, expected = GgufSource(path), stored_in(path)
    for name, stored in (
        ("blocks.0.query.weight", "blk.0.attn_q.weight"),
        ("blocks.1.down.weight", "blk.1.ffn_down.weight"),
        ("embedding.weight", "token_embd.weight"),
    ):
        assert source.type_name(name) == type_name
        np.testing.assert_array_equal(source.tensor(name), expected[stored])
        np.testing.assert_array_equal(source.rows(name, 5, 7), expected[stored][5:7])


@pytest.mark.parametrize("type_name", BITS)
@pytest.mark.parametrize("architecture", ["llama", "chatglm"])
def test_stored_integers_and_scales_are_the_dequantised_weights(type_name, architecture, tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, architecture, types=dict.fromkeys(("attn_", "ffn_up"), type_name))
    source = GgufSource(path)
    for name in ("blocks.1.key.weight", "blocks.0.up.weight"):
        expected = source.rows(name, 2, 50)
        found = source.stored(name, 2, 50)
        np.testing.assert_array_equal(found.values(), expected)
        assert found.integers.max() < 1 << BITS[type_name]


def test_llama_rows_reordered_by_conversion_give_the_same_block(tmp_path):
    """llama.cpp's conversion turns pairs i, i + dim / 2 into neighbours; scores stay the same."""
    halves = replace(SMALL, rotary=replace(SMALL.rotary, pairing="halves"))
    weights = random_weights(halves)
    x = np.random.default_rng(1).normal(size=(7, SMALL.hidden_size))
    expected = reference.block(x, weights, halves, 0)
    for name, rows in weights.items():
        if ".query." in name or ".key." in name:
            heads = rows.reshape(-1, 2, SMALL.head_dim // 2, rows.shape[-1])
            weights[name] = heads.swapaxes(1, 2).reshape(rows.shape)
    write_gguf(tmp_path / "m.gguf", weights=weights)
    source = GgufSource(tmp_path / "m.gguf")
    tensors = {name: source.tensor(name) for name in expected_shapes(source.config)}
    np.testing.assert_allclose(reference.block(x, tensors, source.config, 0), expected, rtol=1e-5)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_values_that_are_no_numbers_are_refused(type_name, tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, types={"ffn_down": type_name})
    tensor = GgufSource(path).header.tensors["blk.0.ffn_down.weight"]
    with path.open("r+b") as file:
        file.seek(tensor.start)
        file.write(b"\xff\xff\xff\xff")  # NaN in fp32, fp16 and bf16, here scales too
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_down\.weight that are no numbers"):
        GgufSource(path).tensor("blocks.0.down.weight")


def test_scales_that_are_no_numbers_are_refused_in_the_stored_form(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, types={"ffn_down": "Q4_1"})
    tensor = GgufSource(path).header.tensors["blk.0.ffn_down.weight"]
    with path.open("r+b") as file:
        file.seek(tensor.start)
        file.write(b"\x00\x7c")  # infinity
    with pytest.raises(CheckpointError, match=r"scales in blk\.0\.ffn_down\.weight"):
        GgufSource(path).stored("blocks.0.down.weight", 0, 4)


def test_a_file_cut_after_it_was_opened_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    source = GgufSource(path)
    with path.open("r+b") as file:
        file.truncate(source.header.tensors["blk.1.ffn_down.weight"].start + 512)
    with pytest.raises(CheckpointError, match="ends inside"):
        source.tensor("blocks.1.down.weight")


def test_a_lacking_or_misshapen_or_unknown_tensor_is_named(tmp_path):
    weights = random_weights(SMALL)
    lacking = {name: one for name, one in weights.items() if name != "blocks.1.up.weight"}
    write_gguf(tmp_path / "a.gguf", weights=lacking)
    with pytest.raises(CheckpointError, match=r"a\.gguf lacks blocks\.1\.up\.weight"):
        GgufSource(tmp_path / "a.gguf")
    shorter = weights | {"blocks.1.up.weight": weights["blocks.1.up.weight"][:-32]}
    write_gguf(tmp_path / "b.gguf", weights=shorter)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.up\.weight of shape \[480, 256\]"):
        GgufSource(tmp_path / "b.gguf")
    write_gguf(tmp_path / "c.gguf", extra={"blk.0.attn_sub_norm.weight": np.ones(256, np.float32)})
    with pytest.raises(CheckpointError, match=r"'blk\.0\.attn_sub_norm\.weight', which is unknown"):
        GgufSource(tmp_path / "c.gguf")


def test_fused_rows_that_do_not_add_up_are_refused(tmp_path):
    tensors = file_tensors("chatglm", random_weights(CONFIGS["chatglm"]))
    shorter = {"blk.0.ffn_up.weight": tensors["blk.0.ffn_up.weight"][:-32]}
    write_gguf(tmp_path / "m.gguf", "chatglm", extra=shorter)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.up\.weight of shape \[992, 256\]"):
        GgufSource(tmp_path / "m.gguf")


def test_split_files_are_one_model(tmp_path):
    whole = tmp_path / "whole.gguf"
    tensors = write_gguf(whole, types={"ffn": "Q8_0"})
    writer = gguf.GGUFWriter(
        tmp_path / "m.gguf", "llama", split_max_tensors=7, small_first_shard=False
    )
    for field in gguf.GGUFReader(whole).fields.values():
        if "." in field.name and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for one in gguf.GGUFReader(whole).tensors:
        writer.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = sorted(tmp_path.glob("m-*.gguf"))
    assert len(files) == -(-len(tensors) // 7)
    alone = GgufSource(whole)
    for given in (files[0], files[-1]):
        source = GgufSource(given)
        assert source.files == files
        for name in expected_shapes(SMALL):
            np.testing.assert_array_equal(source.tensor(name), alone.tensor(name))
    (tmp_path / "renamed.gguf").write_bytes(files[0].read_bytes())
    with pytest.raises(CheckpointError, match=rf"is one of {len(files)} files"):
        GgufSource(tmp_path / "renamed.gguf")
    files[1].write_bytes(files[2].read_bytes())
    with pytest.raises(CheckpointError, match="its name says otherwise"):
        GgufSource(files[0])
    files[1].unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        GgufSource(files[0])
