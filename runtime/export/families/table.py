"""One row per family: what rotates, which keys tell, and where every weight is.

Sizes and switches of config.json are in `scheduler.hf_families`, for planning and export alike.
Names and layouts are those of the modelling code in Hugging Face transformers 5 and, for chatglm2,
of the code published with ChatGLM2-6B, ChatGLM3-6B and glm-4-9b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Family:
    """A decoder with RMS norms, gated SiLU MLP and causal attention, by its published names.

    ``outside`` gives the published name of each canonical tensor (see `weight_source`), ``inside``
    the same within a block, under ``block`` with its number. A published tensor that holds several
    canonical ones has their rows one after another. ``rotary_share`` is the part of a head that
    rotates where the configuration does not tell, and ``rotary_share_varies`` whether it may.
    ``window`` is the sliding window of a configuration that does not name one.
    """

    block: str
    outside: Mapping[str, str]
    inside: Mapping[str, tuple[str, ...]]
    pairing: Literal["halves", "neighbours"] = "halves"
    rotary_share: float = 1.0
    rotary_share_varies: bool = False
    sandwich_norms: bool = False
    epsilon: str = "rms_norm_eps"
    window: int | None = None
    window_switch: str | None = None
    stop_ids: tuple[int, ...] = ()


_LLAMA = Family(
    block="model.layers.{}.",
    outside={
        "embedding": "model.embed_tokens",
        "final_norm": "model.norm",
        "lm_head": "lm_head",
    },
    inside={
        "input_layernorm": ("input_norm",),
        "self_attn.q_proj": ("query",),
        "self_attn.k_proj": ("key",),
        "self_attn.v_proj": ("value",),
        "self_attn.o_proj": ("attention_output",),
        "post_attention_layernorm": ("post_attention_norm",),
        "mlp.gate_proj": ("gate",),
        "mlp.up_proj": ("up",),
        "mlp.down_proj": ("down",),
    },
)
_QWEN2 = replace(_LLAMA, window=4096, window_switch="use_sliding_window")
_GLM = replace(
    _LLAMA,
    inside={
        **{name: parts for name, parts in _LLAMA.inside.items() if not name.startswith("mlp.")},
        "mlp.gate_up_proj": ("gate", "up"),
        "mlp.down_proj": ("down",),
    },
    pairing="neighbours",
    rotary_share=0.5,
    rotary_share_varies=True,
    stop_ids=(151329, 151336, 151338),
)

FAMILIES: Mapping[str, Family] = {
    "chatglm2": Family(
        block="transformer.encoder.layers.{}.",
        outside={
            "embedding": "transformer.embedding.word_embeddings",
            "final_norm": "transformer.encoder.final_layernorm",
            "lm_head": "transformer.output_layer",
        },
        inside={
            "input_layernorm": ("input_norm",),
            "self_attention.query_key_value": ("query", "key", "value"),
            "self_attention.dense": ("attention_output",),
            "post_attention_layernorm": ("post_attention_norm",),
            "mlp.dense_h_to_4h": ("gate", "up"),
            "mlp.dense_4h_to_h": ("down",),
        },
        pairing="neighbours",
        rotary_share=0.5,
        epsilon="layernorm_epsilon",
    ),
    "glm": _GLM,
    "glm4": replace(
        _GLM,
        inside={
            **_GLM.inside,
            "post_self_attn_layernorm": ("attention_output_norm",),
            "post_mlp_layernorm": ("mlp_output_norm",),
        },
        sandwich_norms=True,
    ),
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, window=4096),
    "qwen2": _QWEN2,
    "qwen3": replace(
        _QWEN2,
        inside={
            **_LLAMA.inside,
            "self_attn.q_norm": ("q_norm",),
            "self_attn.k_norm": ("k_norm",),
        },
    ),
}
"""By `scheduler.hf_families` name; ChatGLM-6B, the first of all, is `chatglm_source`'s."""
