"""Metadata of GGUF files, written by the gguf package, to configurations and refusals."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from runtime.export.gguf_source import GgufSource
from runtime.rotary import Rotary, RotaryScaling
from runtime.rotary_speeds import rotary_speeds
from scheduler.errors import CheckpointError
from tests.support.gguf_files import CONFIGS, random_weights, write_gguf


def opened(folder, architecture="llama", **options):
    write_gguf(folder / "m.gguf", architecture, **options)
    return GgufSource(folder / "m.gguf")


def test_keys_are_those_that_the_gguf_package_defines():
    defined = {
        value.replace("{arch}", "llama")
        for group in (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
        for value in vars(group).values()
        if isinstance(value, str)
    }
    for architecture in CONFIGS:
        assert architecture in gguf.MODEL_ARCH_NAMES.values()
    for key in (
        *("block_count", "context_length", "embedding_length", "feed_forward_length"),
        *("vocab_size", "expert_count", "expert_used_count", "tensor_data_layout"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
        *("attention.value_length", "attention.layer_norm_rms_epsilon"),
        *("attention.sliding_window", "attention.causal", "use_parallel_residual"),
        *("rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
        *("rope.scaling.original_context_length", "rope.scaling.attn_factor"),
        "rope.scaling.finetuned",
    ):
        assert f"llama.{key}" in defined


def test_what_is_not_given_has_llama_cpps_defaults(tmp_path):
    absent = dict.fromkeys(("rope.dimension_count", "rope.freq_base", "attention.head_count_kv"))
    config = CONFIGS["llama"]
    weights = {}
    for name, value in random_weights(config).items():
        alike = ".key." in name or ".value." in name
        weights[name] = np.concatenate([value, value]) if alike else value
    found = opened(tmp_path, keys=absent, weights=weights).config
    assert (found.kv_heads, found.rotary) == (4, Rotary("neighbours", 64, 10000.0))


def test_a_head_may_be_wider_than_its_share_of_the_hidden_size(tmp_path):
    config = replace(CONFIGS["qwen3"], heads=8)  # 8 heads of 64 in a width of 256
    lengths = {"attention.key_length": 64, "attention.value_length": 64, "attention.head_count": 8}
    found = opened(tmp_path, "qwen3", keys=lengths, weights=random_weights(config)).config
    assert (found.heads, found.head_dim, found.hidden_size) == (8, 64, 256)


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, None),
        ({"rope.scaling.factor": 4.0}, RotaryScaling("linear", 4.0, 128)),
        ({"rope.scale_linear": 2.0}, RotaryScaling("linear", 2.0, 128)),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
                "rope.scaling.finetuned": True,
            },
            RotaryScaling("yarn", 4.0, 32, attention_factor=1 + 0.1 * np.log(4)),
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.attn_factor": 0.5,
            },
            RotaryScaling("yarn", 4.0, 128, attention_factor=0.5 * (1 + 0.1 * np.log(4))),
        ),
    ],
)
def test_rotary_scaling(keys, scaling, tmp_path):
    assert opened(tmp_path, keys=keys).config.rotary.scaling == scaling


def test_factors_of_llama_3_1_divide_the_speed_of_each_pair(tmp_path):
    """As llama.cpp's conversion writes them, from the same numbers as transformers' llama3."""
    llama3 = RotaryScaling("llama3", 8.0, 8192, 1.0, 4.0)
    plain = Rotary("neighbours", 64, 500000.0)
    expected, _ = rotary_speeds(Rotary("neighbours", 64, 500000.0, llama3))
    factors = (rotary_speeds(plain)[0] / expected).astype(np.float32)
    keys, extra = {"rope.freq_base": 500000.0}, {"rope_freqs.weight": factors}
    rotary = opened(tmp_path, keys=keys, extra=extra).config.rotary
    assert rotary.scaling.kind == "factors"
    np.testing.assert_allclose(rotary_speeds(rotary)[0], expected, rtol=1e-7)


def test_factors_of_one_change_nothing(tmp_path):
    extra = {"rope_freqs.weight": np.ones(32, np.float32)}
    assert opened(tmp_path, extra=extra).config.rotary.scaling is None


@pytest.mark.parametrize(
    ("factors", "sentence"),
    [
        (np.ones(31), "31 values in rope_freqs.weight; expected 32"),
        (np.zeros(32), "a factor of 0.0 in rope_freqs.weight; expected positive"),
        (np.ones((2, 32)), r"rope_freqs.weight of shape \[32, 2\]"),
    ],
)
def test_senseless_factors_are_refused(factors, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        opened(tmp_path, extra={"rope_freqs.weight": factors.astype(np.float32)})


def test_a_tied_model_has_no_head_of_its_own(tmp_path):
    assert opened(tmp_path, "qwen3").config.tied_embeddings


def test_what_ends_an_answer_comes_from_ids_and_from_control_tokens(tmp_path):
    texts = [f"t{number}" for number in range(96)]
    texts[5], texts[6], texts[7] = "<|im_end|>", "<|endoftext|>", "<|eot_id|>"
    kinds = [1] * 96
    kinds[5] = kinds[6] = 3  # 7 is no control token here
    general = {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eot_token_id": 9,
        "tokenizer.ggml.eom_token_id": -1,
    }
    assert opened(tmp_path, general=general).config.stop_ids == (2, 5, 6, 9)


@pytest.mark.parametrize(("architecture", "stops"), [("glm4", (2, 5, 6)), ("llama", (2,))])
def test_roles_end_an_answer_of_glm(architecture, stops, tmp_path):
    texts = [f"t{number}" for number in range(96)]
    texts[5:8] = "<|user|>", "<|observation|>", "<|assistant|>"
    general = {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [1] * 5 + [3] * 3 + [1] * 88,
    }
    assert opened(tmp_path, architecture, general=general).config.stop_ids == stops


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"block_count": None}, "says nothing for llama.block_count; expected a positive whole"),
        ({"block_count": 0}, "says 0 for llama.block_count"),
        (
            {"block_count": 2**31 - 1},
            "says 2147483647 for llama.block_count; expected at most 1000",
        ),
        ({"block_count": "two"}, "says 'two' for llama.block_count"),
        ({"context_length": True}, "says True for llama.context_length"),
        ({"feed_forward_length": [512, 256]}, r"says \[512, 256\] for llama.feed_forward_length"),
        ({"attention.head_count_kv": 3}, "a divisor of the 4 heads"),
        ({"attention.value_length": 32}, "expected the length of a key, 64"),
        ({"attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon; expected a positive"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon; expected"),
        ({"rope.dimension_count": 32}, "says 32 for llama.rope.dimension_count; expected 64"),
        ({"rope.freq_base": float("inf")}, "expected a finite number"),
        ({"rope.freq_base": 0.5}, "expected a number above 1"),
        ({"rope.scaling.type": "longrope"}, "'longrope' for llama.rope.scaling.type; expected"),
        ({"rope.scaling.attn_factor": 2.0}, "expected 1 without YaRN"),
        ({"vocab_size": 95}, "expected 96, the rows of token_embd.weight"),
        ({"expert_count": 8}, "says 8 for llama.expert_count; expected 0"),
        ({"attention.causal": False}, "says False for llama.attention.causal"),
        ({"logit_scale": 4.0}, "sets llama.logit_scale, which this version does not know"),
        ({"attention.scale": 0.1}, "sets llama.attention.scale, which"),
    ],
)
def test_senseless_or_unknown_keys_are_refused_by_name(keys, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        opened(tmp_path, keys=keys)


@pytest.mark.parametrize(
    ("general", "sentence"),
    [
        ({"general.architecture": "gemma3"}, "architecture 'gemma3'; GGUF files of llama, qwen2"),
        ({"general.type": "adapter"}, "GGUF of type 'adapter'; expected a model"),
        ({"tokenizer.ggml.eos_token_id": None}, "names no token that ends an answer"),
        ({"tokenizer.ggml.eos_token_id": 96}, "says 96 for tokenizer.ggml.eos_token_id; expected"),
    ],
)
def test_other_models_are_refused_by_name(general, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        opened(tmp_path, general=general)


def test_a_sliding_window_is_told(tmp_path):
    keys = {"attention.sliding_window": 64}
    assert opened(tmp_path, keys=keys).config.sliding_window == 64
    assert opened(tmp_path, keys={"attention.sliding_window": 0}).config.sliding_window is None


def test_the_file_names_the_model(tmp_path):
    assert opened(tmp_path).config.name == "m"
