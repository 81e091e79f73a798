"""config.json to DecoderConfig: what is understood, and a sentence for everything else."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.export.decoder_config import DecoderConfig, geometry_of, spec_of
from runtime.export.families.hf_config import decoder_config
from runtime.export.families.table import FAMILIES
from runtime.rotary import Rotary, RotaryScaling
from scheduler.errors import GlmPlanError
from scheduler.hf_config import spec_from_hf_config
from scheduler.request import RUNNABLE_FAMILIES
from tests.support.llama_checkpoint import LLAMA, QWEN3

HERE = Path("models") / "some"
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": None}
QWEN2 = LLAMA | {"model_type": "qwen2"}
GLM = LLAMA | {"model_type": "glm", "head_dim": 16}
CHATGLM2 = {
    "model_type": "chatglm",
    "ffn_hidden_size": 96,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "padded_vocab_size": 96,
    "seq_length": 128,
    "add_qkv_bias": True,
    "eos_token_id": 2,
}


def read(config: dict[str, Any], generation: dict[str, Any] | None = None) -> DecoderConfig:
    return decoder_config(config, HERE, generation or {})


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_sizes_are_those_of_the_planner() -> None:
    for config in (LLAMA, MISTRAL, QWEN2, QWEN3, GLM, GLM | {"model_type": "glm4"}, CHATGLM2):
        read_config = read(config)
        assert read_config.name == "some"
        assert spec_of(read_config) == spec_from_hf_config(config, "some")
        assert geometry_of(read_config).blocks == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (without(LLAMA, "rope_theta"), Rotary("halves", 16)),
        (LLAMA | {"rope_theta": 5e5}, Rotary("halves", 16, 5e5)),
        (
            without(LLAMA, "rope_theta")
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            Rotary("halves", 16, 5e5),
        ),
        (
            LLAMA | {"rope_scaling": {"type": "linear", "factor": 2}},
            Rotary("halves", 16, 1e4, RotaryScaling("linear", 2.0, 128)),
        ),
        (
            LLAMA
            | {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
            Rotary("halves", 16, 1e4, RotaryScaling("llama3", 8.0, 64, 1.0, 4.0)),
        ),
        (
            QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            Rotary("halves", 16, 1e4, RotaryScaling("yarn", 4.0, 128)),
        ),
        (
            QWEN2
            | {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                    "attention_factor": 1.5,
                    "beta_fast": 16,
                }
            },
            Rotary(
                "halves",
                16,
                1e4,
                RotaryScaling("yarn", 4.0, 32, beta_fast=16.0, attention_factor=1.5),
            ),
        ),
        (GLM, Rotary("neighbours", 8)),
        (GLM | {"partial_rotary_factor": 0.25}, Rotary("neighbours", 4)),
        (CHATGLM2, Rotary("neighbours", 8)),
        (CHATGLM2 | {"rope_ratio": 500}, Rotary("neighbours", 8, 5e6)),
        (
            CHATGLM2 | {"rope_ratio": 1, "_name_or_path": "THUDM/chatglm2-6b"},
            Rotary("neighbours", 8),
        ),
    ],
)
def test_rotation_in_every_published_form(config: dict[str, Any], expected: Rotary) -> None:
    assert read(config).rotary == expected


def test_yarn_with_two_scales_has_their_ratio() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.3}
    found = read(QWEN2 | {"rope_scaling": scaling}).rotary.scaling
    assert found is not None
    top, bottom = 0.1 * 0.7 * math.log(4) + 1, 0.1 * 1.3 * math.log(4) + 1
    assert found.attention_factor == pytest.approx(top / bottom)


@pytest.mark.parametrize(
    ("config", "context", "window"),
    [
        (LLAMA, 128, None),
        (MISTRAL, 128, None),
        (MISTRAL | {"sliding_window": 32}, 32, 32),
        (MISTRAL | {"sliding_window": 4096}, 128, 4096),
        (without(MISTRAL, "sliding_window"), 128, 4096),
        (QWEN2 | {"sliding_window": 32}, 128, None),
        (QWEN2 | {"sliding_window": 32, "use_sliding_window": True}, 128, None),
        (
            QWEN2 | {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1},
            32,
            32,
        ),
        (
            QWEN2
            | {
                "sliding_window": 32,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "full_attention"],
            },
            128,
            None,
        ),
        (QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, 512, None),
    ],
)
def test_the_context_ends_where_a_sliding_window_would_hide_something(
    config: dict[str, Any], context: int, window: int | None
) -> None:
    found = read(config)
    assert (found.max_context, found.sliding_window) == (context, window)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (LLAMA, {}, (2,)),
        (LLAMA | {"eos_token_id": [5, 7, 5]}, {}, (5, 7)),
        (LLAMA, {"eos_token_id": [9, 2]}, (9, 2)),
        (without(LLAMA, "eos_token_id"), {"eos_token_id": 9}, (9,)),
        (without(GLM, "eos_token_id") | {"vocab_size": 151552}, {}, (151329, 151336, 151338)),
    ],
)
def test_an_answer_ends_where_generate_ends_it(
    config: dict[str, Any], generation: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert read(config, generation).stop_ids == expected


YARN = {"type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        LLAMA | {"model_type": "gemma2", "head_dim": 16},
        "describes a gemma2, which can be planned but not exported",
    ),
    (LLAMA | {"model_type": "granite"}, "model_type 'granite' is unknown"),
    (LLAMA | {"model_type": "qwen3_moe", "num_experts": 64}, "num_experts is 64, a mixture"),
    (LLAMA | {"num_local_experts": 8}, "num_local_experts is 8, a mixture of experts"),
    (LLAMA | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    (LLAMA | {"hidden_act": 3}, "hidden_act is 3"),
    (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    (LLAMA | {"rope_scaling": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
    (LLAMA | {"rope_scaling": {"type": "mrope"}}, "rope_type is 'mrope'"),
    (LLAMA | {"rope_scaling": {"type": ["linear"]}}, "rope_type is a list"),
    (LLAMA | {"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    (LLAMA | {"rope_scaling": {"type": "linear"}}, "factor is null"),
    (LLAMA | {"rope_scaling": {"type": "linear", "factor": -1}}, "factor is -1"),
    (LLAMA | {"rope_scaling": LLAMA3}, "high_freq_factor is 1.0"),
    (LLAMA | {"rope_scaling": YARN | {"truncate": False}}, "truncate is false"),
    (LLAMA | {"rope_scaling": YARN | {"beta_fast": 0.5}}, "beta_fast is 0.5"),
    (LLAMA | {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
    (LLAMA | {"rope_interleaved": True}, "rope_interleaved is true"),
    (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    (GLM | {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
    (GLM | {"partial_rotary_factor": 0.2}, "expected an even part of a head of 16"),
    (LLAMA | {"rope_theta": 0}, "rope_theta is 0"),
    (LLAMA | {"rope_theta": "10000"}, "rope_theta is '10000'"),
    (LLAMA | {"max_position_embeddings": 1 << 25}, "max_context: Input should be less than or"),
    (LLAMA | {"num_hidden_layers": 1024}, "blocks: Input should be less than or equal to 1000"),
    (QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 1e11}}, "max_context: Input should be"),
    (CHATGLM2 | {"rope_ratio": 1e11}, "rotary base 1000000000000000.0 is not between"),
    (LLAMA | {"rope_theta": 10**400}, "rope_theta is a number beyond 64 bits"),
    (CHATGLM2 | {"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}, "rope_ratio is 16"),
    (CHATGLM2 | {"quantization_bit": 4}, "quantization_bit is 4"),
    (CHATGLM2 | {"pre_seq_len": 128}, "pre_seq_len is 128"),
    (CHATGLM2 | {"multi_query_attention": False}, "multi_query_attention is false"),
    (CHATGLM2 | {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection"),
    (CHATGLM2 | {"original_rope": False}, "original_rope is false"),
    (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, "quantization_config is a dict"),
    (LLAMA | {"layer_types": ["chunked_attention"] * 2}, "layer_types is a list"),
    (LLAMA | {"layer_types": ["sliding_attention"] * 2}, "layer_types is a list"),
    (LLAMA | {"layer_types": 3}, "layer_types is 3"),
    (MISTRAL | {"sliding_window": "wide"}, "sliding_window is 'wide'"),
    (MISTRAL | {"sliding_window": 0}, "sliding_window is 0"),
    (QWEN2 | {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers is -1"),
    (without(LLAMA, "rms_norm_eps"), "rms_norm_eps is null"),
    (LLAMA | {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
    (LLAMA | {"rms_norm_eps": True}, "rms_norm_eps is true"),
    (LLAMA | {"head_dim": 10}, "head_dim is 10"),
    (LLAMA | {"hidden_size": 66}, "66 is not a multiple of 4 attention heads"),
    (LLAMA | {"hidden_size": 1 << 40}, "hidden_size is 1099511627776"),
    (without(LLAMA, "eos_token_id"), "eos_token_id is a list"),
    (LLAMA | {"eos_token_id": 96}, "eos_token_id is 96"),
    (LLAMA | {"eos_token_id": [2, -1]}, "eos_token_id is a list"),
    (LLAMA | {"eos_token_id": [2] * 65}, "eos_token_id is a list"),
    (LLAMA | {"eos_token_id": True}, "eos_token_id is true"),
    (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    (without(LLAMA, "model_type"), "model_type is missing"),
]


@pytest.mark.parametrize(("config", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_not_understood_is_refused_by_name(config: dict[str, Any], said: str) -> None:
    with pytest.raises(GlmPlanError) as caught:
        geometry_of(read(config))
    message = str(caught.value)
    assert said in message
    assert str(HERE / "config.json") in message or message.startswith("some is out of")
    assert message.endswith((".", "?"))
    assert "\n" not in message
    assert len(message) < 400


def test_every_family_is_documented() -> None:
    text = (Path(__file__).parents[4] / "docs" / "models.md").read_text(encoding="utf-8")
    assert all(f"\n| {name} | " in text for name in ("chatglm", *FAMILIES))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
KEYS = sorted(
    {*LLAMA, *CHATGLM2, "rope_scaling", "rope_parameters", "sliding_window", "layer_types"}
    | {"use_sliding_window", "partial_rotary_factor", "head_dim", "quantization_config"}
)


@given(
    st.sampled_from([LLAMA, MISTRAL, QWEN2, QWEN3, GLM, CHATGLM2]),
    st.dictionaries(st.sampled_from(KEYS), JUNK, min_size=1, max_size=3),
)
def test_any_value_of_any_key_is_read_or_refused(
    config: dict[str, Any], changes: dict[str, Any]
) -> None:
    with contextlib.suppress(GlmPlanError):
        found = read(config | changes)
        assert found.family in FAMILIES
        assert geometry_of(found).vocab_size == found.vocab_size


def test_what_the_planner_calls_runnable_is_what_can_be_exported() -> None:
    assert {"chatglm", *FAMILIES} == RUNNABLE_FAMILIES
