"""A ChatGLM-6B checkpoint on disk: opened strictly, delivered one part at a time as fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from runtime.export.config import ChatGlmConfig, read_config
from runtime.export.safetensors_files import SafetensorsFiles
from runtime.export.shards import require_inside
from runtime.export.weights import Array, BlockWeights, HeadWeights, Linear, Norm
from scheduler.errors import CheckpointError

SourcePrecision = Literal["fp32", "fp16", "bf16"]

EMBEDDING = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
TOKENIZER = "ice_text.model"
_PRECISIONS: dict[str, SourcePrecision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class Checkpoint:
    """An opened checkpoint: every tensor is there in its shape; values are checked when read.

    ``files`` lists what identifies the checkpoint: configuration, tokenizer and weights.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not directory.is_dir():
            raise CheckpointError(
                f"{directory} is not a directory; expected a ChatGLM-6B checkpoint."
            )
        config_path = require_inside(directory, "config.json")
        self.config: ChatGlmConfig = read_config(config_path)
        self.tokenizer_path = require_inside(directory, TOKENIZER)
        self._tensors = SafetensorsFiles(directory)
        self.files = [config_path, self.tokenizer_path, *self._tensors.files]
        self._names = set(self._tensors.names())
        self._require_tensors()
        # One row is enough to learn the type, and cheap at any size.
        self.source_precision = self._precision_of(EMBEDDING)

    def block(self, number: int) -> BlockWeights:
        """The weights of one block. Raises CheckpointError for NaN or infinite values."""
        prefix = f"transformer.layers.{number}."
        return BlockWeights(
            input_norm=self._norm(prefix + "input_layernorm"),
            query_key_value=self._linear(prefix + "attention.query_key_value"),
            dense=self._linear(prefix + "attention.dense"),
            post_attention_norm=self._norm(prefix + "post_attention_layernorm"),
            up=self._linear(prefix + "mlp.dense_h_to_4h"),
            down=self._linear(prefix + "mlp.dense_4h_to_h"),
        )

    def head(self) -> HeadWeights:
        """Final norm and lm_head; a tied head is the embedding."""
        weight = self._read(EMBEDDING if self.tied else LM_HEAD)
        return HeadWeights(self._norm("transformer.final_layernorm"), weight)

    def embedding_rows(self, start: int, stop: int) -> Array:
        """Rows of the word embedding, [stop - start, hidden]."""
        return self._read(EMBEDDING, slice(start, stop))

    @property
    def tied(self) -> bool:
        """Whether lm_head is the embedding: as config.json says, or else for want of a lm_head."""
        if self.config.tie_word_embeddings is None:
            return LM_HEAD not in self._names
        return self.config.tie_word_embeddings

    def _norm(self, prefix: str) -> Norm:
        return Norm(self._read(f"{prefix}.weight"), self._read(f"{prefix}.bias"))

    def _linear(self, prefix: str) -> Linear:
        return Linear(self._read(f"{prefix}.weight"), self._read(f"{prefix}.bias"))

    def _read(self, name: str, rows: slice | None = None) -> Array:
        array = self._tensors.read(name, rows)
        if array.dtype.name not in _PRECISIONS:
            raise CheckpointError(
                f"{self._tensors.where(name)} stores {name} as {array.dtype.name}; expected"
                " float16, bfloat16 or float32."
            )
        values: Array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self._tensors.where(name)} has NaN or infinite values in {name}; the checkpoint"
                " is damaged."
            )
        return values

    def _precision_of(self, name: str) -> SourcePrecision:
        dtype = self._tensors.read(name, slice(0, 1)).dtype.name
        if dtype not in _PRECISIONS:
            raise CheckpointError(
                f"{self._tensors.where(name)} stores {name} as {dtype}; expected float16, bfloat16"
                " or float32."
            )
        return _PRECISIONS[dtype]

    def _require_tensors(self) -> None:
        expected = expected_shapes(self.config)
        if self.tied:
            del expected[LM_HEAD]
        missing = [name for name in expected if name not in self._names]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{self.directory} lacks the tensor {missing[0]}{more}; expected a complete"
                " ChatGLM-6B checkpoint."
            )
        for name, shape in expected.items():
            found = self._tensors.shape(name)
            if found != shape:
                raise CheckpointError(
                    f"{self._tensors.where(name)} has {name} of shape {list(found)}; config.json"
                    f" implies {list(shape)}."
                )


def expected_shapes(config: ChatGlmConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor that a checkpoint of this geometry must have."""
    hidden, ffn = config.hidden_size, config.inner_hidden_size
    linears = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (ffn, hidden),
        "mlp.dense_4h_to_h": (hidden, ffn),
    }
    norms = [
        f"transformer.layers.{number}.{norm}"
        for number in range(config.num_layers)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        LM_HEAD: (config.vocab_size, hidden),
    }
    for norm in [*norms, "transformer.final_layernorm"]:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (hidden,)
    for number in range(config.num_layers):
        for name, (rows, columns) in linears.items():
            shapes[f"transformer.layers.{number}.{name}.weight"] = (rows, columns)
            shapes[f"transformer.layers.{number}.{name}.bias"] = (rows,)
    return shapes
