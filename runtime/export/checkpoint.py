"""A ChatGLM-6B checkpoint on disk: opened strictly, delivered one part at a time as fp32."""

from __future__ import annotations

from pathlib import Path

from runtime.export.config import ChatGlmConfig, read_config
from runtime.export.quantised import SCALE_SUFFIX, stored_columns, unpack
from runtime.export.shards import require_inside
from runtime.export.tensor_files import open_tensors
from runtime.export.tensor_rows import FLOATS, Decode, SourcePrecision, read_rows
from runtime.export.tokenizer_model import require_tokenizer
from runtime.export.weights import Array, BlockWeights, HeadWeights, Linear, Norm
from runtime.manifest import SpecialTokens
from scheduler.errors import CheckpointError

EMBEDDING = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
TOKENIZER = "ice_text.model"


class Checkpoint:
    """An opened checkpoint: every tensor is there in its shape; values are checked when read.

    The vocabulary is the slim one: the image tokens of the first release are left out, and token
    ids (as in ``tokens``, the special ones) count from there. ``files`` lists what identifies the
    checkpoint: configuration, tokenizer and weights. ``source_precision`` is that of the linear
    layers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not directory.is_dir():
            raise CheckpointError(
                f"{directory} is not a directory; expected a ChatGLM-6B checkpoint."
            )
        config_path = require_inside(directory, "config.json")
        self.config: ChatGlmConfig = read_config(config_path)
        self.vocab_size = self.config.vocab_size - self.config.image_tokens
        self.tokenizer_path = require_inside(directory, TOKENIZER)
        self.tokens = _slim_tokens(self.config)
        require_tokenizer(self.tokenizer_path, self.tokens, self.vocab_size)
        self._tensors = open_tensors(directory)
        self.files = [config_path, self.tokenizer_path, *self._tensors.files]
        self._names = set(self._tensors.names())
        self._require_tensors()
        self.source_precision = self._precision()

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
        name = EMBEDDING if self.tied else LM_HEAD
        weight = self._read(name, self.config.image_tokens, self.config.vocab_size)
        return HeadWeights(self._norm("transformer.final_layernorm"), weight)

    def embedding_rows(self, start: int, stop: int) -> Array:
        """Rows of the word embedding by slim token id, [stop - start, hidden]."""
        first = self.config.image_tokens
        return self._read(EMBEDDING, first + start, first + stop)

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

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows of a tensor as fp32."""
        rows, *columns = self._shapes[name]
        some = slice(start, rows if stop is None else stop)
        return read_rows(self._tensors, name, some, tuple(columns), self._decoder(name))

    def _decoder(self, name: str) -> Decode:
        if self._tensors.dtype(name) != "int8":
            return lambda stored, _: stored
        scale = self._tensors.read(name + SCALE_SUFFIX)
        bits = self.config.quantization_bit or 8
        return lambda stored, rows: unpack(stored, scale[rows], bits)

    def _precision(self) -> SourcePrecision:
        kinds = {
            self._tensors.dtype(name)
            for name in self._shapes
            if name != EMBEDDING and "layernorm" not in name
        }
        if "int8" in kinds:
            return "int4" if self.config.quantization_bit == 4 else "int8"
        # The widest type of any block names the whole.
        return next(FLOATS[kind] for kind in FLOATS if kind in kinds)

    def _require_tensors(self) -> None:
        self._shapes = expected_shapes(self.config)
        if self.tied:
            del self._shapes[LM_HEAD]
        quantised = [
            name
            for name, shape in self._shapes.items()
            if len(shape) == 2 and name in self._names and self._tensors.dtype(name) == "int8"
        ]
        stored = dict(self._shapes)
        for name in quantised:
            bits = self.config.quantization_bit
            if bits not in (4, 8):
                raise CheckpointError(
                    f"{self._tensors.where(name)} stores {name} as int8, and config.json names no"
                    " quantization_bit of 4 or 8."
                )
            rows, columns = self._shapes[name]
            stored[name] = (rows, stored_columns(columns, bits))
            stored[name + SCALE_SUFFIX] = (rows,)
        missing = [name for name in stored if name not in self._names]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{self.directory} lacks the tensor {missing[0]}{more}; expected a complete"
                " ChatGLM-6B checkpoint."
            )
        for name, shape in stored.items():
            self._require_form(name, shape, name in quantised)

    def _require_form(self, name: str, shape: tuple[int, ...], quantised: bool) -> None:
        where, found = self._tensors.where(name), self._tensors.shape(name)
        if found != shape:
            raise CheckpointError(
                f"{where} has {name} of shape {list(found)}; config.json implies {list(shape)}."
            )
        dtype = self._tensors.dtype(name)
        if not quantised and dtype not in FLOATS:
            raise CheckpointError(
                f"{where} stores {name} as {dtype}; expected float16, bfloat16 or float32."
            )


def _slim_tokens(config: ChatGlmConfig) -> SpecialTokens:
    slim = {
        name: getattr(config, f"{name}_token_id") - config.image_tokens
        for name in SpecialTokens.model_fields
    }
    return SpecialTokens(**slim)


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
