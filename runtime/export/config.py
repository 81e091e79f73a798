"""The config.json of a ChatGLM-6B checkpoint, strictly read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler.errors import CheckpointError
from scheduler.strict_json import read_strict_json, validation_sentence

LARGE_VOCABULARY = 150528  # the first release: ids below 20000 are image tokens
IMAGE_TOKENS = 20000
_CONFIG_BYTES_LIMIT = 1 << 20
_SLIM_MASK, _SLIM_GMASK = 130000, 130001  # of the releases whose config does not name them


class ChatGlmConfig(BaseModel):
    """What the exporter needs of config.json; other keys are ignored. Sizes in elements."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    num_layers: int = Field(ge=1, le=1000)
    hidden_size: int = Field(ge=4, le=1 << 17)
    inner_hidden_size: int = Field(ge=1, le=1 << 20)
    num_attention_heads: int = Field(ge=1, le=1 << 12)
    layernorm_epsilon: float = Field(gt=0, lt=1)
    max_sequence_length: int = Field(ge=1, le=1 << 24)
    vocab_size: int = Field(ge=1, le=1 << 24)
    position_encoding_2d: bool = True
    bos_token_id: int = Field(ge=0)
    eos_token_id: int = Field(ge=0)
    pad_token_id: int = Field(ge=0)
    mask_token_id: int | None = Field(default=None, ge=0)
    gmask_token_id: int | None = Field(default=None, ge=0)
    quantization_bit: int | None = None
    pre_seq_len: int | None = None
    tie_word_embeddings: bool | None = None

    @property
    def image_tokens(self) -> int:
        """How many leading ids stand for images; no text uses them, so they are left out."""
        return IMAGE_TOKENS if self.vocab_size == LARGE_VOCABULARY else 0

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.hidden_size // self.num_attention_heads


def read_config(path: Path) -> ChatGlmConfig:
    """Read ``config.json`` at ``path``.

    Raises CheckpointError when it is missing, not JSON, of another architecture, or describes a
    model that the block graph cannot express.
    """
    try:
        document = read_strict_json(path, _CONFIG_BYTES_LIMIT)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}; expected a ChatGLM-6B config.json.") from error
    _require_architecture(path, document)
    try:
        config = ChatGlmConfig.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not usable: {validation_sentence(error)}.") from error
    return _require_expressible(path, _with_mask_tokens(path, config))


def _require_architecture(path: Path, document: dict[str, Any]) -> None:
    model_type = document.get("model_type")
    if model_type != "chatglm":
        raise CheckpointError(
            f"{path} describes an architecture that cannot be exported (model_type {model_type!r});"
            " expected 'chatglm' (ChatGLM-6B)."
        )
    later = [
        key for key in ("padded_vocab_size", "multi_query_attention", "rmsnorm") if key in document
    ]
    if later:
        raise CheckpointError(
            f"{path} describes ChatGLM2 or later (it has {', '.join(later)}); expected the first"
            " ChatGLM-6B."
        )


def _with_mask_tokens(path: Path, config: ChatGlmConfig) -> ChatGlmConfig:
    offset = {LARGE_VOCABULARY: IMAGE_TOKENS, LARGE_VOCABULARY - IMAGE_TOKENS: 0}.get(
        config.vocab_size
    )
    if config.mask_token_id is not None and config.gmask_token_id is not None:
        return config
    if offset is None:
        raise CheckpointError(
            f"{path} names no mask_token_id or gmask_token_id, and a vocabulary of"
            f" {config.vocab_size} is not one of the published ones; add both keys."
        )
    return config.model_copy(
        update={
            "mask_token_id": _first(config.mask_token_id, _SLIM_MASK + offset),
            "gmask_token_id": _first(config.gmask_token_id, _SLIM_GMASK + offset),
        }
    )


def _first(value: int | None, fallback: int) -> int:
    return fallback if value is None else value


def _require_expressible(path: Path, config: ChatGlmConfig) -> ChatGlmConfig:
    heads, hidden = config.num_attention_heads, config.hidden_size
    if hidden % heads or config.head_dim % 4:
        raise CheckpointError(
            f"{path} gives hidden_size {hidden} with {heads} heads; the width of a head must be a"
            " whole number that four divides."
        )
    if not config.position_encoding_2d:
        raise CheckpointError(
            f"{path} sets position_encoding_2d to false; only 2-D positions can be exported."
        )
    if config.pre_seq_len:
        raise CheckpointError(
            f"{path} sets pre_seq_len (a P-tuning prefix), which cannot be exported; use the base"
            " checkpoint."
        )
    if config.quantization_bit not in (None, 0, 4, 8):
        raise CheckpointError(
            f"{path} gives quantization_bit {config.quantization_bit}; expected 4, 8 or none."
        )
    for name in ("bos", "eos", "pad", "mask", "gmask"):
        token = getattr(config, f"{name}_token_id")
        if not config.image_tokens <= token < config.vocab_size:
            raise CheckpointError(
                f"{path} gives {name}_token_id {token}, outside the {config.image_tokens} to"
                f" {config.vocab_size - 1} that text may use."
            )
    return config
