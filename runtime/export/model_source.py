"""ModelSource: an opened checkpoint as the exporter needs it, whatever its family and format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.export.decoder_config import DecoderConfig, geometry_of, spec_of
from runtime.export.decoder_graph import write_decoder_block, write_decoder_head
from runtime.export.embedding_rows import exact_dtype
from runtime.export.tensor_rows import SourcePrecision
from runtime.export.weight_source import Array, WeightSource
from runtime.export.weights import rounded_to_half
from runtime.geometry import Geometry
from runtime.manifest import EmbeddingDtype, SpecialTokens, StoredMatrices, Tokenizer
from scheduler.model import ModelSpec
from scheduler.plan import Precision


class StoredIntegers(Protocol):
    """Quantised weights that MNN's files can take over; a ``part`` is one of a bundle's."""

    def precision(self, part: str) -> Precision:
        """How ``part`` is stored when nothing else is asked for."""

    def weight_block(self, part: str, precision: Precision) -> int | None:
        """Weights that must share a scale for a takeover; None where there is none."""

    def take_over(self, part: str, mnn_path: Path) -> list[StoredMatrices]:
        """Put them into what the converter wrote at int4 or int8, and say what happened."""


class ModelSource(Protocol):
    """What the exporter asks of a checkpoint; one part is in memory at a time.

    ``location`` names it in messages and by default the bundle; ``files`` identify it. Reading
    raises CheckpointError for values that are NaN or infinite.
    """

    @property
    def location(self) -> Path:
        """The directory or file that was opened."""

    @property
    def files(self) -> Sequence[Path]:
        """Configuration, tokenizer and weights: another file, another bundle."""

    @property
    def spec(self) -> ModelSpec:
        """The geometry as the planner counts it."""

    @property
    def geometry(self) -> Geometry:
        """The geometry as the manifest states it."""

    @property
    def precision(self) -> SourcePrecision:
        """How the checkpoint stores its linear layers."""

    @property
    def tokens(self) -> SpecialTokens | None:
        """ChatGLM-6B's special tokens."""

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer; empty where ``tokens`` tell."""

    @property
    def stored(self) -> StoredIntegers | None:
        """The checkpoint's own integers, where MNN's files can take them over."""

    def write_tokenizer(self, target: Path) -> Tokenizer:
        """Write the tokenizer's files into the bundle at ``target`` and describe them."""

    def embedding_dtype(self) -> EmbeddingDtype:
        """How the bundle keeps the embedding."""

    def embedding_rows(self, start: int, stop: int) -> Array:
        """Rows of the word embedding by token id, [stop - start, hidden]."""

    def write_block(self, path: Path, number: int, half: bool) -> None:
        """Write the graph of a block; ``half`` rounds linear layers to the nearest fp16 values.

        Raises OverflowError for values beyond fp16.
        """

    def write_lm_head(self, path: Path, half: bool) -> None:
        """Write the graph of final norm and lm_head; as `write_block`."""


@dataclass(frozen=True)
class DecoderSource:
    """A ModelSource of any decoder that `decoder_graph` expresses.

    ``precision`` is the widest type of the linear layers in the file. ``tokenizer`` writes a
    bundle's tokenizer files below the folder it is given, and describes them.
    """

    location: Path
    config: DecoderConfig
    weights: WeightSource
    precision: SourcePrecision
    files: Sequence[Path]
    tokenizer: Callable[[Path], Tokenizer]
    tokens: SpecialTokens | None = None
    stored: StoredIntegers | None = None

    @property
    def spec(self) -> ModelSpec:
        """The geometry as the planner counts it."""
        return spec_of(self.config)

    @property
    def geometry(self) -> Geometry:
        """The geometry as the manifest states it."""
        return geometry_of(self.config)

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer."""
        return list(self.config.stop_ids)

    def write_tokenizer(self, target: Path) -> Tokenizer:
        """Write the tokenizer's files into the bundle at ``target`` and describe them."""
        return self.tokenizer(target)

    def embedding_dtype(self) -> EmbeddingDtype:
        """The smallest type that holds every value of the embedding exactly."""
        return exact_dtype(self.embedding_rows, self.config.vocab_size)

    def embedding_rows(self, start: int, stop: int) -> Array:
        """Rows of the word embedding by token id, [stop - start, hidden]."""
        return self.weights.rows("embedding.weight", start, stop)

    def write_block(self, path: Path, number: int, half: bool) -> None:
        """Write the graph of a block."""
        write_decoder_block(path, self._weights(half), self.config, number)

    def write_lm_head(self, path: Path, half: bool) -> None:
        """Write the graph of final norm and lm_head, the embedding where they are tied."""
        write_decoder_head(path, self._weights(half), self.config)

    def _weights(self, half: bool) -> WeightSource:
        return _Halved(self.weights) if half else self.weights


@dataclass(frozen=True)
class _Halved:
    """Matrices and biases at the nearest fp16 values; norms stay fp32 in MNN's files (measured)."""

    weights: WeightSource

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.weights.shape(name)

    def tensor(self, name: str) -> Array:
        values = self.weights.tensor(name)
        return values if name.endswith("norm.weight") else rounded_to_half(values)

    def rows(self, name: str, start: int, stop: int) -> Array:
        return rounded_to_half(self.weights.rows(name, start, stop))
