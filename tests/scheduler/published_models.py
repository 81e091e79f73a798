"""Published models: the keys of their config.json that fix a shape, and the parameters published.

Totals are those of the model's page on Hugging Face (its safetensors count), unless a comment says
where else they were published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    config: dict[str, Any]
    parameters: int
    profile: str | None = None


def _config(
    model_type: str, sizes: tuple[int, int, int, int, int, int], **others: Any
) -> dict[str, Any]:
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    )
    return {"model_type": model_type} | dict(zip(keys, sizes, strict=True)) | others


_CHATGLM2 = {
    "model_type": "chatglm",
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "num_layers": 28,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "padded_vocab_size": 65024,
    "vocab_size": 65024,
    "seq_length": 32768,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "tie_word_embeddings": False,
}
_GLM4 = {"num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": False}
_GLM4_SIZES = (4096, 13696, 40, 32, 151552, 131072)

MODELS = {
    "chatglm-6b": Published(
        {
            "model_type": "chatglm",
            "hidden_size": 4096,
            "inner_hidden_size": 16384,
            "num_layers": 28,
            "num_attention_heads": 32,
            "vocab_size": 130528,
            "max_sequence_length": 2048,
            "layernorm_epsilon": 1e-05,
            "position_encoding_2d": True,
        },
        # what PEFT printed before it added 3,670,016 of its own: shibing624/textgen, question 40
        6_176_956_416 - 3_670_016,
        "chatglm-6b",
    ),
    "chatglm2-6b": Published(
        # PEFT's count, hiyouga/ChatGLM-Efficient-Tuning, question 396
        _CHATGLM2,
        6_243_584_000,
        "chatglm2-6b",
    ),
    "chatglm3-6b": Published(_CHATGLM2 | {"seq_length": 8192}, 6_243_584_000, "chatglm3-6b"),
    "glm-4-9b": Published(
        _CHATGLM2
        | {"num_layers": 40, "padded_vocab_size": 151552, "vocab_size": 151552, "seq_length": 8192},
        9_399_951_360,
        "glm-4-9b",
    ),
    "glm-4-9b-chat": Published(
        _CHATGLM2
        | {
            "num_layers": 40,
            "padded_vocab_size": 151552,
            "vocab_size": 151552,
            "seq_length": 131072,
        },
        9_399_951_360,
        "glm-4-9b-chat",
    ),
    "glm-4-9b-chat-hf": Published(
        _config("glm", _GLM4_SIZES, attention_bias=True, **_GLM4), 9_399_951_360
    ),
    "GLM-4-9B-0414": Published(
        _config("glm4", _GLM4_SIZES, attention_bias=True, **_GLM4), 9_400_279_040
    ),
    "Llama-2-7b-hf": Published(
        _config("llama", (4096, 11008, 32, 32, 32000, 4096), tie_word_embeddings=False),
        6_738_415_616,
        "llama-2-7b",
    ),
    "Llama-3.1-8B": Published(
        _config(
            "llama",
            (4096, 14336, 32, 32, 128256, 131072),
            num_key_value_heads=8,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=False,
        ),
        8_030_261_248,
        "llama-3.1-8b",
    ),
    "Qwen2.5-7B-Instruct": Published(
        _config(
            "qwen2",
            (3584, 18944, 28, 28, 152064, 32768),
            num_key_value_heads=4,
            tie_word_embeddings=False,
        ),
        7_615_616_512,
        "qwen2.5-7b",
    ),
    "Qwen2.5-14B-Instruct": Published(
        _config(
            "qwen2",
            (5120, 13824, 48, 40, 152064, 32768),
            num_key_value_heads=8,
            tie_word_embeddings=False,
        ),
        14_770_033_664,
        "qwen2.5-14b",
    ),
    "Qwen2.5-0.5B-Instruct": Published(
        _config(
            "qwen2",
            (896, 4864, 24, 14, 151936, 32768),
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        494_032_768,
        "qwen2.5-0.5b",
    ),
    "Qwen3-0.6B": Published(
        _config(
            "qwen3",
            (1024, 3072, 28, 16, 151936, 40960),
            num_key_value_heads=8,
            head_dim=128,
            attention_bias=False,
            tie_word_embeddings=True,
        ),
        596_049_920,
        "qwen3-0.6b",
    ),
    "Qwen3-4B": Published(
        _config(
            "qwen3",
            (2560, 9728, 36, 32, 151936, 40960),
            num_key_value_heads=8,
            head_dim=128,
            attention_bias=False,
            tie_word_embeddings=True,
        ),
        4_022_468_096,
        "qwen3-4b",
    ),
    "Qwen3-8B": Published(
        _config(
            "qwen3",
            (4096, 12288, 36, 32, 151936, 40960),
            num_key_value_heads=8,
            head_dim=128,
            attention_bias=False,
            tie_word_embeddings=False,
        ),
        8_190_735_360,
        "qwen3-8b",
    ),
    "Mistral-7B-v0.3": Published(
        _config(
            "mistral",
            (4096, 14336, 32, 32, 32768, 32768),
            num_key_value_heads=8,
            sliding_window=None,
            tie_word_embeddings=False,
        ),
        7_248_023_552,
        "mistral-7b",
    ),
    "SmolLM2-135M": Published(
        _config(
            "llama",
            (576, 1536, 30, 9, 49152, 8192),
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
        134_515_008,
        "smollm2-135m",
    ),
    "gemma-7b": Published(
        _config("gemma", (3072, 24576, 28, 16, 256000, 8192), num_key_value_heads=16, head_dim=256),
        8_537_680_896,
    ),
    "gemma-2-2b": Published(
        _config("gemma2", (2304, 9216, 26, 8, 256000, 8192), num_key_value_heads=4, head_dim=256),
        2_614_341_888,
    ),
    "gemma-3-1b-it": Published(
        _config(
            "gemma3_text", (1152, 6912, 26, 4, 262144, 32768), num_key_value_heads=1, head_dim=256
        ),
        999_885_952,
    ),
    "gpt-neox-20b": Published(
        # the table in EleutherAI's README of the model
        _config("gpt_neox", (6144, 24576, 44, 64, 50432, 2048), tie_word_embeddings=False),
        20_554_567_680,
    ),
    "phi-2": Published(
        _config(
            "phi",
            (2560, 10240, 32, 32, 51200, 2048),
            num_key_value_heads=32,
            qk_layernorm=False,
            tie_word_embeddings=False,
        ),
        2_779_683_840,
    ),
    "Phi-3-mini-4k-instruct": Published(
        _config(
            "phi3",
            (3072, 8192, 32, 32, 32064, 4096),
            num_key_value_heads=32,
            tie_word_embeddings=False,
        ),
        3_821_079_552,
    ),
}
