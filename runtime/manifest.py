"""Manifest: what a bundle holds, as the JSON document `manifest.json`; its schema is a contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.geometry import Geometry
from scheduler.backend_names import Engine
from scheduler.plan import Precision

BUNDLE_SCHEMA = "glm-plan/bundle/1"
MANIFEST_NAME = "manifest.json"
LONGEST_NAME = 200
EmbeddingDtype = Literal["bf16", "fp16", "fp32"]
VALUE_BYTES: Mapping[EmbeddingDtype, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
FINE_GROUP = 64
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


How = Literal["exact", "rounded scales", "requantised"]


class StoredMatrices(_Document):
    """How matrices of one type of a GGUF file came into a variant.

    ``exact``: their integers and scales, bit by bit; ``rounded scales``: their integers, with
    scales rounded to fp16; ``requantised``: quantised anew from their values.
    """

    type: str = Field(min_length=1, max_length=20)
    how: How
    matrices: int = Field(gt=0)


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
    stored: list[StoredMatrices] = Field(
        default=[], max_length=100, description="of quantised variants that a GGUF file became"
    )

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files on disk."""
        return sum(file.size_bytes for file in self.files)

    @property
    def fine_scales(self) -> bool:
        """Whether MNN shall quantise activations in groups as small as the weights'.

        Groups of 64 and fewer come from files whose authors run them with activations in groups of
        32 (GGUF), or from small models, which suffer most from one scale per token.
        """
        return self.weight_block is not None and self.weight_block <= FINE_GROUP


class Part(_Document):
    """A unit of placement: ``block_0`` .. ``block_{n-1}`` or ``lm_head``."""

    name: str
    variants: list[Variant] = Field(min_length=1)


class SpecialTokens(_Document):
    """ChatGLM's ids in the bundle's own numbering, after slimming where it was slimmed."""

    mask: int = Field(ge=0)
    gmask: int = Field(ge=0)
    bos: int = Field(ge=0)
    eos: int = Field(ge=0)
    pad: int = Field(ge=0)


class Embedding(_Document):
    """Word embeddings as rows [vocab_size, hidden_size], little endian, no header."""

    file: BundleFile
    dtype: EmbeddingDtype = "bf16"


class Tokenizer(_Document):
    """How text becomes ids, and how messages become a prompt.

    ``id_offset`` is how far token ids lie above the piece ids of a SentencePiece model. ``bos`` and
    ``eos`` are the texts of the special tokens that a chat template names.
    """

    file: BundleFile
    kind: Literal["sentencepiece", "tokenizer.json"] = "sentencepiece"
    id_offset: int = Field(default=0, ge=0)
    add_bos: bool = Field(default=False, description="whether plain text begins with bos")
    bos: str | None = Field(default=None, max_length=200)
    eos: str | None = Field(default=None, max_length=200)
    chat_template: BundleFile | None = Field(default=None, description="a Jinja template")


class Manifest(_Document):
    """Everything that a bundle holds; written last, so its presence means completeness."""

    schema_: Literal["glm-plan/bundle/1"] = Field(default="glm-plan/bundle/1", alias="schema")
    model: str = Field(min_length=1, max_length=LONGEST_NAME)
    geometry: Geometry
    tokens: SpecialTokens | None = Field(
        default=None, description="of ChatGLM; null in other families"
    )
    stop_ids: list[int] = Field(
        default=[], max_length=64, description="end an answer; where none are given, tokens.eos"
    )
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
        named = self.tokens.model_dump() if self.tokens else {}
        named |= {f"stop_ids[{index}]": number for index, number in enumerate(self.stop_ids)}
        if not named:
            raise ValueError("neither tokens nor stop_ids say what ends an answer")
        for token, number in named.items():
            if not 0 <= number < geometry.vocab_size:
                raise ValueError(
                    f"token {token} is {number}, outside vocab_size {geometry.vocab_size}"
                )
        rows_bytes = geometry.vocab_size * geometry.hidden_size * VALUE_BYTES[self.embedding.dtype]
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
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        if self.stop_ids or self.tokens is None:
            return frozenset(self.stop_ids)
        return frozenset({self.tokens.eos})

    @property
    def size_bytes(self) -> int:
        """Bytes of all files on disk, without the manifest."""
        return sum({file.path: file.size_bytes for file in self.files()}.values())

    def files(self) -> list[BundleFile]:
        """Every file of the bundle except the manifest."""
        of_parts = [
            file for part in self.parts for variant in part.variants for file in variant.files
        ]
        template = self.tokenizer.chat_template
        of_text = [self.tokenizer.file] if template is None else [self.tokenizer.file, template]
        return [*of_text, self.embedding.file, *of_parts]
