"""How each architecture names its sizes in `config.json`, as a table: one row per family.

Keys and defaults are those of the configuration and modelling files of Hugging Face transformers
(4.40 to 5.0) and, for chatglm and chatglm2, of the code published with the checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How one architecture names its sizes, and what its modelling code fixes.

    `sizes` maps a ModelSpec field to the key that must be there, `optional` to a key that may be
    missing: then kv_heads is heads, and head_dim is hidden_size / heads. `switches` maps a
    ModelSpec field to keys of which any turns it on; a missing key is as the field here. `only`
    lists keys whose other value would be another architecture.
    """

    sizes: Mapping[str, str]
    norm: Literal["layer", "rms"] = "rms"
    gated_mlp: bool = True
    norms_per_block: int = 2
    qk_norm: bool = False
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    tied_embeddings: bool = False
    optional: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: Mapping[str, bool] = field(default_factory=dict)


_SIZES = {
    "hidden_size": "hidden_size",
    "ffn_size": "intermediate_size",
    "blocks": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_context": "max_position_embeddings",
}
_KV_HEADS = {"kv_heads": "num_key_value_heads"}
_HEAD_DIM = {"head_dim": "head_dim"}
_ATTENTION_BIAS = {
    "qkv_bias": ("attention_bias",),
    "attention_output_bias": ("attention_bias",),
}
_PLAIN = Family(
    sizes=_SIZES,
    norm="layer",
    gated_mlp=False,
    qkv_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
)
_GLM = Family(
    sizes=_SIZES | _KV_HEADS | _HEAD_DIM,
    qkv_bias=True,
    switches={"qkv_bias": ("attention_bias",)},
)
_GEMMA = Family(
    sizes=_SIZES | _KV_HEADS | _HEAD_DIM,
    tied_embeddings=True,
    switches=_ATTENTION_BIAS,
)

FAMILIES: Mapping[str, Family] = {
    "chatglm": replace(
        _PLAIN,
        sizes={
            **_SIZES,
            "ffn_size": "inner_hidden_size",
            "blocks": "num_layers",
            "max_context": "max_sequence_length",
        },
        tied_embeddings=True,
    ),
    "chatglm2": Family(  # ChatGLM2, ChatGLM3 and GLM-4 as first published: one layout
        sizes={
            **_SIZES,
            "ffn_size": "ffn_hidden_size",
            "blocks": "num_layers",
            "vocab_size": "padded_vocab_size",
            "max_context": "seq_length",
            "kv_heads": "multi_query_group_num",
            "head_dim": "kv_channels",
        },
        switches={
            "qkv_bias": ("add_qkv_bias", "add_bias_linear"),
            "attention_output_bias": ("add_bias_linear",),
            "mlp_bias": ("add_bias_linear",),
        },
        only={"rmsnorm": True, "multi_query_attention": True, "post_layer_norm": True},
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, norms_per_block=4),  # also after attention and after the MLP
    "llama": Family(
        sizes=_SIZES,
        optional=_KV_HEADS | _HEAD_DIM,
        switches={**_ATTENTION_BIAS, "mlp_bias": ("mlp_bias",)},
    ),
    "mistral": Family(sizes=_SIZES | _KV_HEADS, optional=_HEAD_DIM),
    "qwen2": Family(sizes=_SIZES | _KV_HEADS, optional=_HEAD_DIM, qkv_bias=True),
    "qwen3": Family(sizes=_SIZES | _KV_HEADS | _HEAD_DIM, qk_norm=True, switches=_ATTENTION_BIAS),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, norms_per_block=4),
    "gemma3_text": replace(_GEMMA, norms_per_block=4, qk_norm=True),
    "gpt_neox": replace(_PLAIN, switches=_ATTENTION_BIAS),
    "phi": replace(  # attention and MLP run side by side after one norm
        _PLAIN,
        optional=_KV_HEADS,
        norms_per_block=1,
        lm_head_bias=True,
        switches={"qk_norm": ("qk_layernorm",)},
    ),
    "phi3": Family(sizes=_SIZES, optional=_KV_HEADS),
}
CHATGLM_LAYOUTS = ("chatglm", "chatglm2")  # both say model_type chatglm
