"""The tiny model as a Hugging Face ChatGLM checkpoint on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from runtime.manifest import SpecialTokens
from runtime.tokenizer import Tokenizer
from training.model import TinyConfig, TinyGlm

TOKENIZER_FILE = "ice_text.model"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def config_document(config: TinyConfig, special: SpecialTokens) -> dict[str, Any]:
    """config.json, with the keys of the published ones."""
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "torch_dtype": "float16",
        "num_layers": config.blocks,
        "hidden_size": config.hidden_size,
        "inner_hidden_size": config.ffn_size,
        "num_attention_heads": config.heads,
        "layernorm_epsilon": config.epsilon,
        "max_sequence_length": config.max_sequence_length,
        "vocab_size": config.vocab_size,
        "position_encoding_2d": True,
        "tie_word_embeddings": False,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "mask_token_id": special.mask,
        "gmask_token_id": special.gmask,
        "pad_token_id": special.pad,
        "quantization_bit": 0,
        "pre_seq_len": None,
        "use_cache": True,
    }


def write_checkpoint(model: TinyGlm, tokenizer: Tokenizer, directory: Path) -> None:
    """Write config.json and the weights in fp16; the tokenizer's file is there already."""
    document = config_document(model.config, tokenizer.special)
    text = json.dumps(document, indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, str(directory / WEIGHTS_FILE), metadata={"format": "pt"})


def load_checkpoint(directory: Path) -> tuple[TinyGlm, Tokenizer]:
    """The model with the fp16 weights that were written, computing in fp32, and its tokenizer."""
    document = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    model = TinyGlm(
        TinyConfig(
            vocab_size=document["vocab_size"],
            hidden_size=document["hidden_size"],
            heads=document["num_attention_heads"],
            blocks=document["num_layers"],
            ffn_size=document["inner_hidden_size"],
            epsilon=document["layernorm_epsilon"],
            max_sequence_length=document["max_sequence_length"],
        )
    )
    tensors = load_file(str(directory / WEIGHTS_FILE))
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    names = ("mask", "gmask", "bos", "eos", "pad")
    special = SpecialTokens(**{name: document[f"{name}_token_id"] for name in names})
    return model, Tokenizer(directory / TOKENIZER_FILE, special)
