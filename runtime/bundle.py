"""Bundle: a directory with an exported model; its manifest, checksums, and how to open one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler.errors import BundleError
from scheduler.plan import Precision

BUNDLE_SCHEMA = "glm-plan/bundle/1"
MANIFEST_NAME = "manifest.json"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class BundleFile(_Document):
    """One file of a bundle: path relative to the bundle, size in bytes, SHA-256 in hex."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Variant(_Document):
    """One way to run a part: the files of one engine at one precision."""

    engine: Literal["mnn", "ort"]
    precision: Precision
    weight_block: int | None = Field(
        default=None, description="values that share a scale; null: one scale per channel, or none"
    )
    files: list[BundleFile] = Field(description="the first one is what the engine opens")


class Part(_Document):
    """A unit of placement: ``block_0`` .. ``block_{n-1}`` or ``lm_head``."""

    name: str
    variants: list[Variant]


class Geometry(_Document):
    """What the runtime must know of the model to shape its inputs; sizes in elements."""

    family: str = "chatglm"
    hidden_size: int = Field(gt=0)
    ffn_size: int = Field(gt=0)
    blocks: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    max_context: int = Field(gt=0)
    layernorm_epsilon: float = Field(gt=0)


class SpecialTokens(_Document):
    """Ids in the bundle's own numbering (after slimming, where the vocabulary was slimmed)."""

    mask: int
    gmask: int
    bos: int
    eos: int
    pad: int


class Embedding(_Document):
    """Word embeddings as bfloat16 rows [vocab_size, hidden_size], little endian, no header."""

    file: BundleFile


class Tokenizer(_Document):
    """The SentencePiece model and how far its piece ids lie from the model's token ids."""

    file: BundleFile
    id_offset: int = 0


class Manifest(_Document):
    """Everything that a bundle holds; written last, so that its presence means the bundle is complete."""

    schema_: Literal["glm-plan/bundle/1"] = Field(default=BUNDLE_SCHEMA, alias="schema")
    model: str
    geometry: Geometry
    tokens: SpecialTokens
    tokenizer: Tokenizer
    embedding: Embedding
    parts: list[Part]
    source_precision: Precision | Literal["bf16"] = Field(description="of the checkpoint's weights")
    made_by: dict[str, Any] = Field(default={}, description="glm-plan and converter versions")
