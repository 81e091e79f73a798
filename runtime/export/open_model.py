"""Which family a checkpoint belongs to, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from runtime.export.chatglm_source import ChatGlmSource
from runtime.export.families.hf_config import (
    CONFIG,
    config_files,
    read_decoder_config,
    read_json,
)
from runtime.export.families.named_weights import NamedWeights
from runtime.export.gguf_model import open_gguf
from runtime.export.model_source import DecoderSource, ModelSource
from runtime.export.shards import require_inside
from runtime.export.tensor_files import open_tensors
from runtime.export.tokenizer_files import end_of_turn_ids, tokenizer_for_bundle, tokenizer_sources
from scheduler.errors import CheckpointError


def open_model(location: Path) -> ModelSource:
    """Open a checkpoint's directory or a GGUF file, strictly; weights are read later, part by part.

    Raises CheckpointError or UserInputError for what is missing, damaged, hostile or of a family
    that cannot be exported.
    """
    if location.suffix == ".gguf" and location.is_file():
        return open_gguf(location)
    if not location.is_dir():
        raise CheckpointError(
            f"{location} is not a directory, nor a file named .gguf; expected a checkpoint:"
            " config.json, weights and tokenizer, or one GGUF file."
        )
    if _is_first_chatglm(read_json(require_inside(location, CONFIG))):
        return ChatGlmSource(location)
    config = read_decoder_config(location)
    turn_ends = set(end_of_turn_ids(location)) - set(config.stop_ids)
    config = replace(config, stop_ids=(*config.stop_ids, *sorted(turn_ends)))
    tensors = open_tensors(location)
    weights = NamedWeights(tensors, config, location)
    return DecoderSource(
        location=location,
        config=config,
        weights=weights,
        precision=weights.precision,
        files=[*config_files(location), *tokenizer_sources(location), *tensors.files],
        tokenizer=partial(tokenizer_for_bundle, location, vocab_size=config.vocab_size),
    )


def _is_first_chatglm(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "chatglm" and "ffn_hidden_size" not in config
