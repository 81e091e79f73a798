"""Every tensor of a published checkpoint, name by name, written down from its modelling code.

An independent count for the geometry formulas: no formula of the scheduler is used here.
"""

from __future__ import annotations

from typing import Any

Shapes = dict[str, tuple[int, ...]]


def block_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of one transformer block, without its prefix."""
    if config["model_type"] == "chatglm":
        return _chatglm2(config) if "ffn_hidden_size" in config else _chatglm(config)
    return _BLOCKS[config["model_type"]](config)


def outer_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors outside the blocks, a tied head once."""
    vocab = config.get("padded_vocab_size", config["vocab_size"])
    hidden = config["hidden_size"]
    kind = config["model_type"]
    shapes: Shapes = {"embedding.weight": (vocab, hidden), "norm.weight": (hidden,)}
    if kind in ("gpt_neox", "phi") or "inner_hidden_size" in config:
        shapes["norm.bias"] = (hidden,)
    tied_by_default = kind.startswith("gemma") or "inner_hidden_size" in config
    if not config.get("tie_word_embeddings", tied_by_default):
        shapes["lm_head.weight"] = (vocab, hidden)
    if kind == "phi":
        shapes["lm_head.bias"] = (vocab,)
    return shapes


def _chatglm(c: dict[str, Any]) -> Shapes:
    h, inner = c["hidden_size"], c["inner_hidden_size"]
    return {
        "input_layernorm.weight": (h,),
        "input_layernorm.bias": (h,),
        "attention.query_key_value.weight": (3 * h, h),
        "attention.query_key_value.bias": (3 * h,),
        "attention.dense.weight": (h, h),
        "attention.dense.bias": (h,),
        "post_attention_layernorm.weight": (h,),
        "post_attention_layernorm.bias": (h,),
        "mlp.dense_h_to_4h.weight": (inner, h),
        "mlp.dense_h_to_4h.bias": (inner,),
        "mlp.dense_4h_to_h.weight": (h, inner),
        "mlp.dense_4h_to_h.bias": (h,),
    }


def _chatglm2(c: dict[str, Any]) -> Shapes:
    h, ffn = c["hidden_size"], c["ffn_hidden_size"]
    qkv = 4096 + 2 * 128 + 2 * 128  # 32 query heads, 2 groups of keys, 2 of values, 128 wide
    return {
        "input_layernorm.weight": (h,),
        "self_attention.query_key_value.weight": (qkv, h),
        "self_attention.query_key_value.bias": (qkv,),
        "self_attention.dense.weight": (h, 4096),
        "post_attention_layernorm.weight": (h,),
        "mlp.dense_h_to_4h.weight": (2 * ffn, h),
        "mlp.dense_4h_to_h.weight": (h, ffn),
    }


def _llama(c: dict[str, Any]) -> Shapes:
    h, ffn, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    dim = c.get("head_dim", h // heads)
    kv = c.get("num_key_value_heads", heads)
    return {
        "input_layernorm.weight": (h,),
        "self_attn.q_proj.weight": (heads * dim, h),
        "self_attn.k_proj.weight": (kv * dim, h),
        "self_attn.v_proj.weight": (kv * dim, h),
        "self_attn.o_proj.weight": (h, heads * dim),
        "post_attention_layernorm.weight": (h,),
        "mlp.gate_proj.weight": (ffn, h),
        "mlp.up_proj.weight": (ffn, h),
        "mlp.down_proj.weight": (h, ffn),
    }


def _with_qkv_bias(c: dict[str, Any]) -> Shapes:
    shapes = _llama(c)
    return shapes | {
        f"self_attn.{name}.bias": shapes[f"self_attn.{name}.weight"][:1]
        for name in ("q_proj", "k_proj", "v_proj")
    }


def _glm(c: dict[str, Any]) -> Shapes:
    shapes = _with_qkv_bias(c)
    gate, up = shapes.pop("mlp.gate_proj.weight"), shapes.pop("mlp.up_proj.weight")
    return shapes | {"mlp.gate_up_proj.weight": (gate[0] + up[0], gate[1])}


def _glm4(c: dict[str, Any]) -> Shapes:
    h = c["hidden_size"]
    return _glm(c) | {
        "post_self_attn_layernorm.weight": (h,),
        "post_mlp_layernorm.weight": (h,),
    }


def _qwen3(c: dict[str, Any]) -> Shapes:
    return _llama(c) | {
        "self_attn.q_norm.weight": (c["head_dim"],),
        "self_attn.k_norm.weight": (c["head_dim"],),
    }


def _gemma2(c: dict[str, Any]) -> Shapes:
    h = c["hidden_size"]
    return _llama(c) | {
        "pre_feedforward_layernorm.weight": (h,),
        "post_feedforward_layernorm.weight": (h,),
    }


def _gemma3(c: dict[str, Any]) -> Shapes:
    return _gemma2(c) | _qwen3(c)


def _gpt_neox(c: dict[str, Any]) -> Shapes:
    return {
        name.replace("mlp.dense", "mlp.neox_dense"): shape
        for name, shape in _chatglm(c | {"inner_hidden_size": c["intermediate_size"]}).items()
    }


def _phi(c: dict[str, Any]) -> Shapes:
    h, ffn = c["hidden_size"], c["intermediate_size"]
    shapes: Shapes = {"input_layernorm.weight": (h,), "input_layernorm.bias": (h,)}
    for name in ("q_proj", "k_proj", "v_proj", "dense"):
        shapes |= {f"self_attn.{name}.weight": (h, h), f"self_attn.{name}.bias": (h,)}
    return shapes | {
        "mlp.fc1.weight": (ffn, h),
        "mlp.fc1.bias": (ffn,),
        "mlp.fc2.weight": (h, ffn),
        "mlp.fc2.bias": (h,),
    }


def _phi3(c: dict[str, Any]) -> Shapes:
    h, ffn = c["hidden_size"], c["intermediate_size"]
    return {
        "input_layernorm.weight": (h,),
        "self_attn.qkv_proj.weight": (3 * h, h),
        "self_attn.o_proj.weight": (h, h),
        "post_attention_layernorm.weight": (h,),
        "mlp.gate_up_proj.weight": (2 * ffn, h),
        "mlp.down_proj.weight": (h, ffn),
    }


_BLOCKS = {
    "llama": _llama,
    "mistral": _llama,
    "gemma": _llama,
    "qwen2": _with_qkv_bias,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "glm": _glm,
    "glm4": _glm4,
    "gpt_neox": _gpt_neox,
    "phi": _phi,
    "phi3": _phi3,
}
