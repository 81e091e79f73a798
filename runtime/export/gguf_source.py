"""A GGUF model as a source of weights: canonical names to rows of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.export.decoder_config import DecoderConfig
from runtime.export.gguf_blocks import dequantised_rows
from runtime.export.gguf_config import architecture_of, decoder_config
from runtime.export.gguf_header import GgufHeader, GgufTensor
from runtime.export.gguf_integers import stored_rows
from runtime.export.gguf_splits import read_gguf
from runtime.export.quantised_rows import QuantisedRows
from runtime.export.weight_source import Array, expected_shapes, require_tensors
from scheduler.errors import CheckpointError

_ROPE_FACTORS = "rope_freqs.weight"
_MODEL = {"embedding": "token_embd", "final_norm": "output_norm", "lm_head": "output"}
_BLOCK = {
    "input_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "attention_output": "attn_output",
    "attention_output_norm": "post_attention_norm",
    "post_attention_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "mlp_output_norm": "post_ffw_norm",
}


# Tensors of the architectures of ChatGLM and GLM-4 that hold several matrices, one above the other.
_FUSED = {"attn_qkv": ["query", "key", "value"], "ffn_up": ["gate", "up"]}


@dataclass(frozen=True)
class _Place:
    """Where a canonical tensor is: some rows of a matrix, or values of a vector, of the file."""

    tensor: GgufTensor
    start: int
    stop: int
    shape: tuple[int, ...]


class GgufSource:
    """An opened GGUF model: a `WeightSource`, and its stored integers where it has them.

    ``config`` is what its metadata says, ``header`` the metadata itself, ``files`` all files that
    make the model. Nothing but headers is read until a tensor is asked for. Opening raises
    CheckpointError for a file that is damaged, of another architecture, or that lacks a tensor or
    holds one that the architecture does not have.
    """

    def __init__(self, path: Path) -> None:
        self.header: GgufHeader = read_gguf(path)
        tensors = self.header.tensors
        self.files = sorted({path, *(tensor.file for tensor in tensors.values())})
        _, self._architecture = architecture_of(path, self.header)
        self.config: DecoderConfig = decoder_config(path, self.header, self._pair_factors())
        shapes = expected_shapes(self.config)
        self._lengths = {name: shape[0] for name, shape in shapes.items()}
        self._places = {
            name: place
            for name, shape in shapes.items()
            if (place := self._place(name, shape)) is not None
        }
        require_tensors(self, self.config, str(path))
        used = {place.tensor.name for place in self._places.values()} | {_ROPE_FACTORS}
        for name in tensors:
            if name not in used:
                raise CheckpointError(
                    f"{path} holds the tensor {name[:80]!r}, which is unknown for its architecture"
                    f" {self.header.metadata['general.architecture']}; it would be left out."
                )

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Dimensions of a tensor by canonical name; None where it is absent."""
        place = self._places.get(name)
        return None if place is None else place.shape

    def tensor(self, name: str) -> Array:
        """The whole tensor as fp32. Raises CheckpointError for NaN or infinite values."""
        place = self._places[name]
        if len(place.shape) == 1:
            return dequantised_rows(place.tensor, 0, 1)[0, place.start : place.stop]
        return dequantised_rows(place.tensor, place.start, place.stop)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` of a matrix as fp32, read without the rest of it."""
        place = self._places[name]
        return dequantised_rows(place.tensor, place.start + start, place.start + stop)

    def type_name(self, name: str) -> str:
        """How a tensor is stored, such as Q4_1."""
        return self._places[name].tensor.type_name

    def stored(self, name: str, start: int, stop: int) -> QuantisedRows:
        """Integers and scales of some rows of a matrix whose type is in `gguf_integers.BITS`."""
        place = self._places[name]
        return stored_rows(place.tensor, place.start + start, place.start + stop)

    def _pair_factors(self) -> tuple[float, ...] | None:
        tensor = self.header.tensors.get(_ROPE_FACTORS)
        if tensor is None:
            return None
        if len(tensor.shape) != 1 or tensor.shape[0] > 1 << 14:
            raise CheckpointError(
                f"{tensor.file} has {_ROPE_FACTORS} of shape {list(tensor.shape)}; expected one"
                " factor for each rotated pair."
            )
        factors = tuple(float(one) for one in dequantised_rows(tensor, 0, 1)[0])
        if min(factors) <= 0:
            raise CheckpointError(
                f"{tensor.file} has a factor of {min(factors)} in {_ROPE_FACTORS}; expected"
                " positive ones."
            )
        return factors

    def _place(self, name: str, shape: tuple[int, ...]) -> _Place | None:
        """Where a tensor lies; its shape is as the file has it, right or wrong."""
        stem, kind = name.rsplit(".", 1)
        *block, layer = stem.removeprefix("blocks.").split(".")
        prefix = f"blk.{block[0]}." if block else ""
        stored = (_BLOCK if block else _MODEL)[layer]
        before, of = [], [layer]
        for fused, layers in _FUSED.items() if self._architecture.fused else ():
            if layer in layers and f"{prefix}{fused}.{kind}" in self.header.tensors:
                stored, of = fused, layers
                before = layers[: layers.index(layer)]
        tensor = self.header.tensors.get(f"{prefix}{stored}.{kind}")
        if tensor is None:
            return None
        found = tensor.shape[::-1]
        lengths = {one: self._lengths[f"{stem.removesuffix(layer)}{one}.{kind}"] for one in of}
        if found[0] != sum(lengths.values()):
            return _Place(tensor, 0, found[0], found)
        start = sum(lengths[one] for one in before)
        return _Place(tensor, start, start + shape[0], (shape[0], *found[1:]))
