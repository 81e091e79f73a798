"""Make small random checkpoints of a Llama or Qwen3 on disk, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support.chatglm_checkpoint import DTYPES
from tests.support.json_tokenizer import write_letters

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 32, "rms_norm_eps": 1e-06}


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors by their published names, fp32."""
    random = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{number}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (queries, hidden),
            f"{prefix}self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, queries),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.gate_proj.weight": (ffn, hidden),
            f"{prefix}mlp.up_proj.weight": (ffn, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, ffn),
        }
        if config["model_type"] == "qwen3":
            shapes |= {f"{prefix}self_attn.{one}_norm.weight": (dim,) for one in "qk"}
    return {
        name: random.normal("norm" in name, 1 / shape[-1] ** 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_checkpoint(
    directory: Path,
    config: dict[str, Any] = LLAMA,
    *,
    precision: str = "bf16",
    seed: int = 0,
    shards: int = 1,
    tensors: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write a checkpoint and return its tensors as fp32, rounded to what was stored."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(config, seed) if tensors is None else tensors
    stored = {name: value.astype(DTYPES[precision]) for name, value in tensors.items()}
    (directory / "config.json").write_text(json.dumps(config))
    write_letters(directory)
    if shards == 1:
        save_file(stored, directory / "model.safetensors")
    else:
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            some = {name: stored[name] for name in list(stored)[number::shards]}
            save_file(some, directory / file)
            weight_map |= dict.fromkeys(some, file)
        index = directory / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    return {name: value.astype(np.float32) for name, value in stored.items()}
