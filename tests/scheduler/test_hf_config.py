"""Reading config.json: published models, and every way to refuse a file in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import UserInputError
from scheduler.hf_config import read_hf_config, spec_from_hf_config
from scheduler.model import ModelSpec, block_bytes, total_parameters
from scheduler.profiles import load_model
from tests.scheduler.published_models import MODELS

TINY = Path(__file__).parents[2] / "profiles" / "models" / "tiny-glm"
LLAMA = MODELS["Llama-3.1-8B"].config


def outcome(config: dict[str, Any]) -> ModelSpec | str:
    """The geometry, or the sentence that refuses it; anything else fails the test."""
    try:
        return spec_from_hf_config(config, "the-model")
    except UserInputError as error:
        return str(error)


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(UserInputError) as caught:
        spec_from_hf_config(config, "the-model")
    message = str(caught.value)
    assert message.startswith("the-model: ")
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("name", [name for name, published in MODELS.items() if published.profile])
def test_shipped_profile_is_what_config_json_says(name: str) -> None:
    published = MODELS[name]
    assert published.profile is not None
    profile = load_model(published.profile)
    spec = spec_from_hf_config(published.config, published.profile)
    assert {**vars(profile), "reserve_rule": None} == vars(spec)


@pytest.mark.skipif(not TINY.is_dir(), reason="the tiny model is not in this checkout")
def test_tiny_profile_is_what_its_checkpoint_says() -> None:
    assert load_model("tiny-glm") == read_hf_config(TINY)


def test_optional_keys_of_llama() -> None:
    config = dict(MODELS["Llama-2-7b-hf"].config)
    spec = spec_from_hf_config(config, "m")
    assert (spec.kv_heads, spec.head_dim, spec.tied_embeddings) == (32, 128, False)
    config |= {"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": None}
    assert spec_from_hf_config(config, "m") == spec
    spec = spec_from_hf_config(
        config | {"head_dim": 64, "attention_bias": True, "mlp_bias": True}, "m"
    )
    assert (spec.head_dim, spec.qkv_bias, spec.attention_output_bias, spec.mlp_bias) == (
        64,
        True,
        True,
        True,
    )


def test_switches_of_other_families() -> None:
    chatglm2 = MODELS["chatglm2-6b"].config
    spec = spec_from_hf_config(chatglm2 | {"add_bias_linear": True, "add_qkv_bias": False}, "m")
    assert spec.qkv_bias
    assert spec.attention_output_bias
    assert spec.mlp_bias
    assert spec_from_hf_config(MODELS["phi-2"].config | {"qk_layernorm": True}, "m").qk_norm
    neox = spec_from_hf_config(MODELS["gpt-neox-20b"].config | {"attention_bias": False}, "m")
    assert not neox.qkv_bias
    assert neox.mlp_bias
    glm = spec_from_hf_config(MODELS["GLM-4-9B-0414"].config | {"attention_bias": False}, "m")
    assert not glm.qkv_bias


@pytest.mark.parametrize("name", MODELS)
def test_every_missing_size_is_named(name: str) -> None:
    config = MODELS[name].config
    refused = []
    for key in config:
        result = outcome({other: value for other, value in config.items() if other != key})
        if isinstance(result, str):
            # without ffn_hidden_size a file looks like the first ChatGLM
            assert f"{key} is missing" in result or key == "ffn_hidden_size"
            refused.append(key)
    assert len(refused) >= 7  # model_type and at least six sizes


@pytest.mark.parametrize(
    "value",
    [0, -1, 10**12, 10**5000, True, False, None, "4096", 4096.0, float("nan"), [], {}, [4096]],
    ids=lambda value: str(value)[:9] if not isinstance(value, int) else f"int{value.bit_length()}",
)
def test_bad_sizes_are_refused(value: Any) -> None:
    message = refusal(LLAMA | {"hidden_size": value})
    assert "hidden_size is " in message
    assert "expected a whole number from 1 to 131072" in message


@pytest.mark.parametrize("value", ["yes", 1, 0, "false", [], 0.5])
def test_bad_switches_are_refused(value: Any) -> None:
    assert "attention_bias is" in refusal(LLAMA | {"attention_bias": value})
    assert "expected true or false" in refusal(LLAMA | {"tie_word_embeddings": value})


def test_heads_must_divide() -> None:
    assert "cannot share 5 key/value heads" in refusal(LLAMA | {"num_key_value_heads": 5})
    assert "not a multiple of 31 attention heads" in refusal(
        LLAMA | {"num_attention_heads": 31, "num_key_value_heads": 31}
    )


@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_mixtures_of_experts_are_refused(key: str) -> None:
    message = refusal(LLAMA | {"model_type": "mixtral", key: 8})
    assert f"{key} is 8, a mixture of experts" in message


def test_unknown_model_types_get_near_matches() -> None:
    assert "did you mean llama?" in refusal(LLAMA | {"model_type": "lama"})
    assert "did you mean" in refusal(LLAMA | {"model_type": "qwen"})
    message = refusal(LLAMA | {"model_type": "mamba2x"})
    assert "known are chatglm, gemma" in message
    assert "phi3" in message
    assert "model_type is missing" in refusal({})
    assert "model_type is 7" in refusal({"model_type": 7})
    # the internal name of the second ChatGLM layout is not a model type
    assert "unknown" in refusal(MODELS["chatglm2-6b"].config | {"model_type": "chatglm2"})


def test_model_inside_a_larger_one_is_refused() -> None:
    message = refusal({"model_type": "gemma3", "text_config": LLAMA, "vision_config": {}})
    assert "text_config" in message


def test_unpublished_chatglm2_layouts_are_refused() -> None:
    config = MODELS["chatglm2-6b"].config
    for key in ("rmsnorm", "multi_query_attention", "post_layer_norm"):
        assert f"{key} is false" in refusal(config | {key: False})


def test_reads_a_file_or_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "my-llama"
    directory.mkdir()
    file = directory / "config.json"
    file.write_text(json.dumps(LLAMA | {"torch_dtype": "bfloat16"}), encoding="utf-8")
    assert read_hf_config(file) == read_hf_config(directory)
    assert read_hf_config(directory) == spec_from_hf_config(LLAMA, "my-llama")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"model_type": "llama", "hidden_size": ' + b"9" * 10_000 + b"}",
        b'{"model_type": "llama", "hidden_size": NaN}',
        b" " * (2 << 20),
    ],
    ids=["empty", "cut", "list", "null", "binary", "deep", "digits", "nan", "large"],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(UserInputError) as caught:
        read_hf_config(file)
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"config\.json cannot be read: No such file"):
        read_hf_config(tmp_path)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 2, 64, 128, 4096, 10**12, -(10**30), 1 << 70_000]),
    st.floats(),
    st.text(max_size=100),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
_KEYS = sorted({key for published in MODELS.values() for key in published.config})
_TYPES = sorted({published.config["model_type"] for published in MODELS.values()})


@given(
    base=st.sampled_from(sorted(MODELS)),
    changes=st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=8), _VALUES, max_size=4),
    model_type=st.none() | st.sampled_from(_TYPES) | st.text(max_size=200),
    dropped=st.sets(st.sampled_from(_KEYS), max_size=2),
)
def test_anything_gives_a_model_or_a_sentence(
    base: str, changes: dict[str, Any], model_type: str | None, dropped: set[str]
) -> None:
    config = MODELS[base].config | changes
    if model_type is not None:
        config["model_type"] = model_type
    config = {key: value for key, value in config.items() if key not in dropped}
    result = outcome(config)
    if isinstance(result, str):
        assert len(result) < 600
    else:
        assert total_parameters(result) > 0
        assert block_bytes(result, "int4") > 0
