"""ChatGLM-6B as a ModelSource: the one family with layer norms, two positions and a prefix mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.bundle_spec import geometry_of
from runtime.export.block_graph import write_block, write_lm_head
from runtime.export.checkpoint import Checkpoint
from runtime.export.files import copy_file, describe
from runtime.export.model_source import StoredIntegers
from runtime.export.tensor_rows import SourcePrecision
from runtime.export.weight_source import Array
from runtime.export.weights import block_rounded_to_half, head_rounded_to_half
from runtime.geometry import Geometry
from runtime.manifest import EmbeddingDtype, SpecialTokens, Tokenizer
from scheduler.hf_config import read_hf_config
from scheduler.model import ModelSpec


class ChatGlmSource:
    """An opened checkpoint of ChatGLM-6B; raises what `Checkpoint` raises."""

    def __init__(self, directory: Path) -> None:
        self.checkpoint = Checkpoint(directory)
        self.location = directory
        self.files: Sequence[Path] = self.checkpoint.files
        self.spec: ModelSpec = replace(
            read_hf_config(directory), vocab_size=self.checkpoint.vocab_size
        )
        self._epsilon = self.checkpoint.config.layernorm_epsilon
        self.geometry: Geometry = geometry_of(self.spec, self._epsilon)
        self.precision: SourcePrecision = self.checkpoint.source_precision
        self.tokens: SpecialTokens | None = self.checkpoint.tokens
        self.stop_ids: list[int] = []
        self.stored: StoredIntegers | None = None  # the int8 and int4 releases are requantised

    def write_tokenizer(self, target: Path) -> Tokenizer:
        """Copy the SentencePiece model into the bundle at ``target``."""
        path = target / "tokenizer" / "ice_text.model"
        return Tokenizer(file=describe(target, copy_file(self.checkpoint.tokenizer_path, path)))

    def embedding_dtype(self) -> EmbeddingDtype:
        """bf16, whatever the checkpoint has: what bundles of ChatGLM-6B have always held."""
        return "bf16"

    def embedding_rows(self, start: int, stop: int) -> Array:
        """Rows of the word embedding by slim token id, [stop - start, hidden]."""
        return self.checkpoint.embedding_rows(start, stop)

    def write_block(self, path: Path, number: int, half: bool) -> None:
        """Write the graph of a block."""
        block = self.checkpoint.block(number)
        block = block_rounded_to_half(block) if half else block
        heads = self.checkpoint.config.num_attention_heads
        write_block(path, block, heads=heads, layernorm_epsilon=self._epsilon)

    def write_lm_head(self, path: Path, half: bool) -> None:
        """Write the graph of final norm and lm_head."""
        head = self.checkpoint.head()
        head = head_rounded_to_half(head) if half else head
        write_lm_head(path, head, layernorm_epsilon=self._epsilon)
