"""ChatGLM2, ChatGLM3 and glm-4 as first published, against a NumPy model of their definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.bundle import open_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.reference import chatglm2_numpy as reference
from tests.support import torch_zip
from tests.support.block_runs import random_texts, relative_error, require_same_states
from tests.support.json_tokenizer import write_letters

CHATGLM2: dict[str, Any] = {
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 96,
    "fp32_residual_connection": False,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 96,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 128,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
CONFIGS = {
    "chatglm2": CHATGLM2,
    "chatglm3, long": CHATGLM2 | {"rope_ratio": 50},
    "glm-4": CHATGLM2
    | {
        "layernorm_epsilon": 1.5625e-07,
        "rope_ratio": 500,
        "kv_channels": 32,
        "eos_token_id": [5, 7, 9],
    },
}


def write(directory: Path, config: dict[str, Any], layout: str = "safetensors") -> Any:
    directory.mkdir()
    tensors = reference.random_tensors(config)
    # A table that the published files carry along.
    stored = tensors | {"transformer.rotary_pos_emb.inv_freq": np.ones(4, np.float32)}
    if layout == "torch":
        torch_zip.save(directory / "pytorch_model.bin", stored)
    else:
        save_file(stored, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    write_letters(directory)
    return tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_are_those_of_the_definition(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    tensors = write(tmp_path / "c", config, "torch" if name == "chatglm2" else "safetensors")
    manifest = export_bundle(ExportRequest(tmp_path / "c", tmp_path / "b", ("fp32",)))
    assert manifest.geometry.family == "chatglm2"
    assert manifest.stop_ids == ([5, 7, 9] if name == "glm-4" else [2])
    texts = random_texts(96)
    states, logits = zip(*(reference.forward(tensors, config, ids) for ids in texts), strict=True)
    require_same_states(open_bundle(tmp_path / "b"), texts, list(states), list(logits))


def test_the_definition_is_that_of_transformers_glm() -> None:
    """transformers' Glm is glm-4 with its tensors under other names."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    pytest.importorskip("transformers", reason="needs transformers")
    from tests.support.decoder_models import block_outputs, make_model

    theirs = make_model("glm", rms_norm_eps=1e-5, rope_theta=10000.0 * 50, attention_bias=True)
    config = CHATGLM2 | {"rope_ratio": 50}
    tensors = reference.random_tensors(config)
    state = {name: torch.tensor(value) for name, value in _renamed(tensors).items()}
    theirs.load_state_dict(state)
    ids = random_texts(96)[0] * 4
    states, logits = reference.forward(tensors, config, ids)
    expected, expected_logits = block_outputs(theirs, ids)
    for found, wanted in zip([*states, logits], [*expected, expected_logits], strict=True):
        assert relative_error(found, wanted) < 1e-6


def _renamed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    simple = {
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.output_layer": "lm_head",
        "transformer.encoder.layers": "model.layers",
        "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
        "self_attention.dense": "self_attn.o_proj",
    }
    renamed = {}
    for published, value in tensors.items():
        name = published
        for old, new in simple.items():
            name = name.replace(old, new)
        if "query_key_value" not in name:
            renamed[name] = value
            continue
        for part, rows in zip("qkv", np.split(value, [64, 96]), strict=True):
            renamed[name.replace("self_attention.query_key_value", f"self_attn.{part}_proj")] = rows
    return renamed
