"""Small random models of `transformers`, saved as their own code saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.json_tokenizer import write_letters

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied, three heads on one": (
        "Llama",
        {
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
    ),
    "llama, every bias, linear rope": (
        "Llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        },
    ),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": None}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn": ("Qwen2", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3, every bias": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "glm": ("Glm", {"head_dim": 16, "rms_norm_eps": 1.5625e-07}),
    "glm4": ("Glm4", {"head_dim": 16, "rms_norm_eps": 1.5625e-07}),
}


def make_model(name: str, **changes: Any) -> Any:
    """A random model of `MODELS` in fp32, strong enough that every part of a block matters."""
    import torch
    import transformers

    prefix, settings = MODELS[name]
    config = getattr(transformers, f"{prefix}Config")(**(SIZES | settings | changes))
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval().requires_grad_(False)
    torch.manual_seed(3)
    for key, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in key and "weight" in key else 0.0, 0.2)
    return model


def save_model(model: Any, directory: Path, **options: Any) -> None:
    """Write config.json, generation_config.json and weights, and letters for a tokenizer."""
    model.save_pretrained(directory, **options)
    write_letters(directory)


def block_outputs(model: Any, ids: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Hidden states behind the embedding and each block, [tokens, hidden], and logits; in fp64.

    ``model`` is turned into fp64 for good.
    """
    import torch

    model.double()
    seen: list[np.ndarray] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        seen.append(states.reshape(len(ids), -1).numpy().copy())

    watched = [model.model.embed_tokens, *model.model.layers]
    hooks = [one.register_forward_hook(keep) for one in watched]
    try:
        logits = model(torch.tensor([ids])).logits[0].numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return seen, logits
