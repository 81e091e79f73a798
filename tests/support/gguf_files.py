"""Small GGUF models of random weights, written by the gguf package's own writer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from runtime.export.decoder_config import DecoderConfig
from runtime.export.weight_source import expected_shapes
from runtime.rotary import Rotary

SMALL = DecoderConfig(
    name="small",
    family="llama",
    hidden_size=256,
    ffn_size=512,
    blocks=2,
    heads=4,
    kv_heads=2,
    head_dim=64,
    vocab_size=96,
    max_context=128,
    norm="rms",
    norm_epsilon=1e-5,
    activation="silu",
    gated_mlp=True,
    rotary=Rotary("neighbours", 64),
    stop_ids=(2,),
)
CONFIGS = {
    "llama": SMALL,
    "qwen2": replace(SMALL, family="qwen2", qkv_bias=True, rotary=Rotary("halves", 64, 1e6)),
    "qwen3": replace(
        SMALL, family="qwen3", qk_norm=True, tied_embeddings=True, rotary=Rotary("halves", 64)
    ),
    "chatglm": replace(
        SMALL, family="chatglm2", qkv_bias=True, rotary=Rotary("neighbours", 32, 5e6)
    ),
    "glm4": replace(
        SMALL, family="glm4", sandwich_norms=True, rotary=Rotary("neighbours", 32, 1e4)
    ),
}
# The names that llama.cpp gives (gguf.TENSOR_NAMES), by ours.
_TENSORS = gguf.MODEL_TENSOR
NAMES = {
    "embedding": _TENSORS.TOKEN_EMBD,
    "final_norm": _TENSORS.OUTPUT_NORM,
    "lm_head": _TENSORS.OUTPUT,
    "input_norm": _TENSORS.ATTN_NORM,
    "query": _TENSORS.ATTN_Q,
    "key": _TENSORS.ATTN_K,
    "value": _TENSORS.ATTN_V,
    "attention_output": _TENSORS.ATTN_OUT,
    "post_attention_norm": _TENSORS.FFN_NORM,
    "gate": _TENSORS.FFN_GATE,
    "up": _TENSORS.FFN_UP,
    "down": _TENSORS.FFN_DOWN,
    "q_norm": _TENSORS.ATTN_Q_NORM,
    "k_norm": _TENSORS.ATTN_K_NORM,
    "attention_output_norm": _TENSORS.ATTN_POST_NORM,
    "mlp_output_norm": _TENSORS.FFN_POST_NORM,
}


def random_weights(config: DecoderConfig, seed: int = 7) -> dict[str, np.ndarray]:
    """Canonical tensors, fp32, in the order of the config's pairing."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(1 if "norm" in name else 0, 0.2, shape).astype(np.float32)
        for name, shape in expected_shapes(config).items()
    }


def file_name(name: str) -> str:
    """A canonical name as GGUF has it."""
    stem, kind = name.rsplit(".", 1)
    *block, layer = stem.removeprefix("blocks.").split(".")
    pattern = gguf.TENSOR_NAMES[NAMES[layer]]
    return f"{pattern.format(bid=block[0]) if block else pattern}.{kind}"


def file_tensors(architecture: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical tensors by the file's names; ChatGLM's put together as llama.cpp keeps them."""
    tensors = {file_name(name): value for name, value in weights.items()}
    if architecture == "chatglm":  # of GLM-4 they stay apart
        for name in [one for one in tensors if ".attn_q." in one]:
            parts = [tensors.pop(name.replace("attn_q", f"attn_{one}")) for one in "qkv"]
            tensors[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
    if architecture in ("chatglm", "glm4"):
        for name in [one for one in tensors if ".ffn_gate." in one]:
            up = name.replace("ffn_gate", "ffn_up")
            tensors[up] = np.concatenate([tensors.pop(name), tensors.pop(up)])
    return tensors


def metadata(config: DecoderConfig) -> dict[str, object]:
    """Keys under ``<architecture>.`` as llama.cpp's conversion writes them."""
    return {
        "block_count": config.blocks,
        "context_length": config.max_context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "rope.dimension_count": config.rotary.dim,
        "rope.freq_base": float(config.rotary.base),
    }


def write_gguf(
    path: Path,
    architecture: str = "llama",
    types: dict[str, str] | None = None,
    keys: dict[str, object] | None = None,
    general: dict[str, object] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    config: DecoderConfig | None = None,
) -> dict[str, np.ndarray]:
    """Write a model and return its fp32 tensors by the file's names.

    ``types`` are by a part of the tensor's name, F32 otherwise; ``keys`` replace metadata under the
    architecture's name, None removes; ``general`` does so for whole keys; ``extra`` are more
    tensors.
    """
    config = config or CONFIGS[architecture]
    weights = weights or random_weights(config)
    tensors = file_tensors(architecture, weights) | (extra or {})
    writer = gguf.GGUFWriter(path, architecture)
    stated = {
        f"{architecture}.{key}": one for key, one in (metadata(config) | (keys or {})).items()
    }
    stated |= {"tokenizer.ggml.eos_token_id": 2} | (general or {})
    if "general.architecture" in stated:  # the writer states it by itself
        writer.arch = stated.pop("general.architecture")
        writer.add_architecture()
    for key, value in stated.items():
        if value is not None:
            _add(writer, key, value)
    for name, value in tensors.items():
        wanted = next((kind for part, kind in (types or {}).items() if part in name), "F32")
        kind = gguf.GGMLQuantizationType[wanted]
        data = value if wanted == "F32" else quantised(value, wanted)
        writer.add_tensor(name, data, raw_dtype=None if wanted in ("F32", "F16") else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def quantised(values: np.ndarray, type_name: str) -> np.ndarray:
    """Blocks of a type; of K-quants, which the package cannot write, random ones of that size."""
    kind = gguf.GGMLQuantizationType[type_name]
    if not type_name.endswith("_K"):
        return gguf.quants.quantize(values, kind)
    width, size_bytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(3)
    shape = (*values.shape[:-1], values.shape[-1] // width)
    blocks = random.integers(0, 256, (*shape, size_bytes), np.uint8)
    scale = np.array([1e-4], np.float16).view(np.uint8)
    # Where each type keeps its fp16 scales: ggml's block_q2_K to block_q6_K.
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for place in places[type_name]:
        blocks[..., place : place + 2] = scale
    return blocks.reshape(*values.shape[:-1], -1)


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value) if value >= 0 else writer.add_int32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
