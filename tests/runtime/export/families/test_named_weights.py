"""Tensors by canonical name, and checkpoints that lack, lie or hold more than a bundle would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.export.model_source import DecoderSource
from runtime.export.open_model import open_model
from runtime.export.weight_source import expected_shapes
from tests.runtime.export.families.test_chatglm2_layout import CHATGLM2, write
from tests.support.llama_checkpoint import LLAMA, QWEN3, random_tensors, write_checkpoint

Tensors = dict[str, np.ndarray]
DOWN = "model.layers.1.mlp.down_proj.weight"


def opened(directory: Path) -> DecoderSource:
    source = open_model(directory)
    assert isinstance(source, DecoderSource)
    return source


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_value_arrives(tmp_path: Path, precision: str, shards: int) -> None:
    tensors = write_checkpoint(tmp_path, QWEN3, precision=precision, shards=shards)
    source = opened(tmp_path)
    assert source.precision == precision
    assert len(source.files) == 2 + shards
    for name, shape in expected_shapes(source.config).items():
        assert source.weights.shape(name) == shape
    for ours, theirs in {
        "embedding": "model.embed_tokens",
        "lm_head": "lm_head",
        "blocks.1.k_norm": "model.layers.1.self_attn.k_norm",
        "blocks.1.value": "model.layers.1.self_attn.v_proj",
        "blocks.0.up": "model.layers.0.mlp.up_proj",
    }.items():
        found = source.weights.tensor(f"{ours}.weight")
        np.testing.assert_array_equal(found, tensors[f"{theirs}.weight"])
        assert found.dtype == np.float32
    np.testing.assert_array_equal(
        source.weights.rows("embedding.weight", 5, 9), tensors["model.embed_tokens.weight"][5:9]
    )
    assert source.weights.shape("blocks.0.query.bias") is None


@pytest.mark.parametrize(
    ("wide", "tied", "expected"),
    [
        ("model.norm.weight", False, "fp16"),
        ("model.embed_tokens.weight", False, "fp16"),
        ("model.embed_tokens.weight", True, "fp32"),
        (DOWN, False, "fp32"),
    ],
)
def test_the_precision_is_the_widest_of_the_linear_layers(
    tmp_path: Path, wide: str, tied: bool, expected: str
) -> None:
    config = LLAMA | {"tie_word_embeddings": tied}
    tensors = write_checkpoint(tmp_path, config, precision="fp16")
    stored = {
        name: value if name == wide else value.astype(np.float16) for name, value in tensors.items()
    }
    save_file(stored, tmp_path / "model.safetensors")
    assert opened(tmp_path).precision == expected


def test_fused_tensors_come_apart_by_rows(tmp_path: Path) -> None:
    tensors = write(tmp_path / "c", CHATGLM2)
    weights = opened(tmp_path / "c").weights
    fused = tensors["transformer.encoder.layers.1.self_attention.query_key_value.weight"]
    bias = tensors["transformer.encoder.layers.1.self_attention.query_key_value.bias"]
    for name, start, stop in (("query", 0, 64), ("key", 64, 96), ("value", 96, 128)):
        np.testing.assert_array_equal(weights.tensor(f"blocks.1.{name}.weight"), fused[start:stop])
        np.testing.assert_array_equal(weights.tensor(f"blocks.1.{name}.bias"), bias[start:stop])
    both = tensors["transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"]
    np.testing.assert_array_equal(weights.rows("blocks.0.up.weight", 3, 7), both[99:103])


def test_a_tied_head_in_the_file_is_left_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA | {"tie_word_embeddings": True}, tensors=random_tensors(LLAMA))
    assert opened(tmp_path).weights.shape("lm_head.weight") is None


def missing(tensors: Tensors) -> None:
    del tensors[DOWN]


def unknown(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.experts.0.down_proj.weight"] = np.zeros((4, 4), np.float32)


def a_bias_that_the_configuration_denies(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)


def a_block_too_many(tensors: Tensors) -> None:
    tensors["model.layers.2.mlp.down_proj.weight"] = tensors[DOWN].copy()


def wrong_shape(tensors: Tensors) -> None:
    tensors[DOWN] = tensors[DOWN][:, :-1].copy()


def wrong_rank(tensors: Tensors) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][None]


def integers(tensors: Tensors) -> None:
    tensors[DOWN] = tensors[DOWN].astype(np.int8)


def not_a_number(tensors: Tensors) -> None:
    tensors[DOWN][3, 4] = np.nan


def infinite_embedding(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"][95, 0] = np.inf


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (missing, f"lacks the tensor {DOWN}; expected a complete checkpoint of family llama"),
        (unknown, "'model.layers.1.mlp.experts.0.down_proj.weight', which a model of family llama"),
        (a_bias_that_the_configuration_denies, "'model.layers.0.self_attn.q_proj.bias', which"),
        (a_block_too_many, "'model.layers.2.mlp.down_proj.weight', which"),
        (wrong_shape, f"has {DOWN} of shape [64, 95]; config.json implies [64, 96]"),
        (wrong_rank, "has model.norm.weight of shape [1, 64]"),
        (integers, f"stores {DOWN} as int8"),
        (not_a_number, f"has NaN or infinite values in {DOWN}"),
        (infinite_embedding, "has NaN or infinite values in model.embed_tokens.weight"),
    ],
)
def test_a_checkpoint_that_lies_is_one_sentence(
    tmp_path: Path, harm: Callable[[Tensors], None], said: str
) -> None:
    tensors = random_tensors(LLAMA)
    harm(tensors)
    write_checkpoint(tmp_path / "c", precision="fp32")
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    require_refused(tmp_path, said)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def bad_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')


def a_link_elsewhere(folder: Path) -> None:
    (folder.parent / "elsewhere.json").write_text('{"eos_token_id": 5}')
    (folder / "generation_config.json").symlink_to(folder.parent / "elsewhere.json")


def repeated_key(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "hidden_size": 32}')


def deep_json(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def huge_counts(folder: Path) -> None:
    config = LLAMA | {"num_hidden_layers": 1000, "hidden_size": 1 << 17, "vocab_size": 1 << 24}
    (folder / "config.json").write_text(json.dumps(config))


def another_family(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA | {"model_type": "gpt_neox"}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (no_tokenizer, "tokenizer"),
        (truncated, "model.safetensors is damaged"),
        (no_weights, "neither model.safetensors nor pytorch_model.bin"),
        (bad_generation_config, "eos_token_id is '</s>'"),
        (a_link_elsewhere, "generation_config.json is a link to"),
        (repeated_key, "repeats the key 'hidden_size'"),
        (deep_json, "is not JSON"),
        (huge_counts, "lacks the tensor model.layers.2.input_layernorm.weight"),
        (another_family, "describes a gpt_neox, which can be planned but not exported"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(
    tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    write_checkpoint(tmp_path / "c")
    harm(tmp_path / "c")
    require_refused(tmp_path, said)


def require_refused(folder: Path, said: str) -> None:
    """The command says one sentence, ends with code 2 and leaves nothing."""
    out = folder / "bundles" / "b"
    words: list[Any] = [sys.executable, "-m", "runtime.cli", "export", folder / "c", "--out", out]
    child = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 2, child.stderr
    assert said in child.stderr
    assert len(child.stderr.strip().splitlines()) == 1, child.stderr
    assert child.stderr.strip().endswith(".")
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
