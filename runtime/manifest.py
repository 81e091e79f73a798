"""Manifest: what a bundle holds, as the JSON document `manifest.json`; its schema is a contract."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scheduler.plan import Precision

BUNDLE_SCHEMA = "glm-plan/bundle/1"
MANIFEST_NAME = "manifest.json"
Engine = Literal["mnn", "ort"]
Layout = Literal["glm-plan", "article"]
"""How a folder's files are named and its graphs called: ours, or the article's of 2023."""


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="strings"
    )


class BundleFile(_Document):
    """One file of a bundle: path relative to the bundle, size in bytes, SHA-256 in hex.

    Only a folder that came without a manifest has no checksums.
    """

    path: str = Field(min_length=1, max_length=255)
    size_bytes: int = Field(gt=0)
    sha256: str | None = Field(pattern="^[0-9a-f]{64}$")


class Variant(_Document):
    """One way to run a part: the files of one engine at one precision."""

    engine: Engine
    precision: Precision
    weight_block: int | None = Field(
        default=None,
        gt=0,
        description="values that share a scale; null: one scale per channel, or none",
    )
    files: list[BundleFile] = Field(
        min_length=1, description="the first one is what the engine opens"
    )

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files on disk."""
        return sum(file.size_bytes for file in self.files)


class Part(_Document):
    """A unit of placement: ``block_0`` .. ``block_{n-1}`` or ``lm_head``."""

    name: str
    variants: list[Variant] = Field(min_length=1)


class Geometry(_Document):
    """What the runtime must know of the model to shape its inputs; sizes in elements."""

    family: Literal["chatglm"] = "chatglm"
    hidden_size: int = Field(gt=0, le=1 << 17)
    ffn_size: int = Field(gt=0, le=1 << 20)
    blocks: int = Field(gt=0, le=1000)
    heads: int = Field(gt=0, le=1 << 12)
    kv_heads: int = Field(gt=0, le=1 << 12)
    head_dim: int = Field(gt=0, le=1 << 14)
    vocab_size: int = Field(gt=0, le=1 << 24)
    max_context: int = Field(gt=0, le=1 << 24)
    layernorm_epsilon: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _heads_fill_the_width(self) -> Geometry:
        if self.heads * self.head_dim != self.hidden_size or self.kv_heads != self.heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not heads {self.heads} x head_dim"
                f" {self.head_dim} with kv_heads {self.kv_heads} equal to heads"
            )
        if self.head_dim % 4:
            raise ValueError(f"head_dim {self.head_dim} is not a multiple of four")
        return self


class SpecialTokens(_Document):
    """Ids in the bundle's own numbering (after slimming, where the vocabulary was slimmed)."""

    mask: int = Field(ge=0)
    gmask: int = Field(ge=0)
    bos: int = Field(ge=0)
    eos: int = Field(ge=0)
    pad: int = Field(ge=0)


class Embedding(_Document):
    """Word embeddings as bfloat16 rows [vocab_size, hidden_size], little endian, no header."""

    file: BundleFile


class Tokenizer(_Document):
    """The SentencePiece model and how far its piece ids lie from the model's token ids."""

    file: BundleFile
    id_offset: int = Field(default=0, ge=0)


class Manifest(_Document):
    """Everything that a bundle holds; written last, so its presence means completeness."""

    schema_: Literal["glm-plan/bundle/1"] = Field(default="glm-plan/bundle/1", alias="schema")
    model: str = Field(min_length=1, max_length=200)
    geometry: Geometry
    tokens: SpecialTokens
    tokenizer: Tokenizer
    embedding: Embedding
    parts: list[Part]
    source_precision: Precision | Literal["bf16"] = Field(description="of the checkpoint's weights")
    source_sha256: str | None = Field(
        pattern="^[0-9a-f]{64}$",
        description="of the checkpoint: configuration, tokenizer and weights",
    )
    made_by: dict[str, Any] = Field(default={}, description="glm-plan and converter versions")

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        geometry = self.geometry
        expected = [f"block_{number}" for number in range(geometry.blocks)] + ["lm_head"]
        if [part.name for part in self.parts] != expected:
            raise ValueError(f"parts are not block_0 to block_{geometry.blocks - 1}, then lm_head")
        for part in self.parts:
            kinds = [(one.engine, one.precision, one.weight_block) for one in part.variants]
            if len(set(kinds)) < len(kinds):
                raise ValueError(f"{part.name} lists the same variant twice")
        for token, number in self.tokens.model_dump().items():
            if number >= geometry.vocab_size:
                raise ValueError(
                    f"token {token} is {number}, beyond vocab_size {geometry.vocab_size}"
                )
        rows_bytes = geometry.vocab_size * geometry.hidden_size * 2
        if self.embedding.file.size_bytes != rows_bytes:
            raise ValueError(
                f"the embedding has {self.embedding.file.size_bytes} bytes, its geometry"
                f" {rows_bytes}"
            )
        known: dict[str, BundleFile] = {}
        for file in self.files():
            if known.setdefault(file.path, file) != file:
                raise ValueError(f"{file.path} is listed twice with different contents")
        return self

    @property
    def size_bytes(self) -> int:
        """Bytes of all files on disk, without the manifest."""
        return sum({file.path: file.size_bytes for file in self.files()}.values())

    def files(self) -> list[BundleFile]:
        """Every file of the bundle except the manifest."""
        of_parts = [
            file for part in self.parts for variant in part.variants for file in variant.files
        ]
        return [self.tokenizer.file, self.embedding.file, *of_parts]
