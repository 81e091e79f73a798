"""What a part of a bundle must compute, in NumPy, for each kind of block; and MNN's inputs."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from runtime.export.block_graph import key_order
from runtime.export.chatglm_source import ChatGlmSource
from runtime.export.decoder_graph import head_order
from runtime.export.model_source import DecoderSource, ModelSource
from runtime.export.numpy_block import BlockValues, Sequence, block, gelu, linear, lm_head
from runtime.export.numpy_decoder import decoder_block, decoder_linear, decoder_logits, silu
from runtime.export.weight_source import Array
from runtime.geometry import Geometry
from runtime.manifest import SpecialTokens
from runtime.step_inputs import RotaryTable, Row, attention_mask


class PartReference(Protocol):
    """The checkpoint's own weights in NumPy fp32, for one text without a cache.

    ``inside`` names the tensors of the graph that `layer_errors` needs.
    """

    inside: list[str]

    def block(self, x: Array, number: int) -> BlockValues:
        """What block ``number`` makes of hidden states [S, hidden]."""

    def keys_as_stored(self, keys: Array) -> Array:
        """Keys [heads, S, dim] as the graph gives them, [heads, dim, S] in its order."""

    def inputs(self, rows: list[Array]) -> dict[str, Array]:
        """A graph's inputs that run hidden states, each [S, hidden], as the rows of one batch."""

    def layer_errors(self, traced: dict[str, Array], number: int) -> dict[str, float]:
        """Relative error of each linear layer, fed with MNN's own input."""

    def logits(self, x: Array) -> Array:
        """Logits [S, vocab] of hidden states [S, hidden]."""


def reference_of(
    source: ModelSource, geometry: Geometry, tokens: SpecialTokens | None, ids: list[int]
) -> PartReference:
    """The reference for a text of these token ids."""
    if isinstance(source, ChatGlmSource) and tokens is not None:
        text = Sequence(len(ids), ids.index(tokens.bos), ids.index(tokens.gmask))
        return _ChatGlmReference(source, geometry, text)
    assert isinstance(source, DecoderSource)
    return _DecoderReference(source, geometry, len(ids))


def relative(found: Array, expected: Array) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class _ChatGlmReference:
    def __init__(self, source: ChatGlmSource, geometry: Geometry, text: Sequence) -> None:
        self.inside = ["ln1", "query_key_value", "context.flat", "dense", "ln2", "gelu", "down"]
        self._checkpoint, self._geometry, self._text = source.checkpoint, geometry, text

    def block(self, x: Array, number: int) -> BlockValues:
        weights = self._checkpoint.block(number)
        return block(x, weights, self._text, self._geometry.heads, self._geometry.layernorm_epsilon)

    def keys_as_stored(self, keys: Array) -> Array:
        stored: Array = keys[:, :, key_order(self._geometry.head_dim)].transpose(0, 2, 1)
        return stored

    def inputs(self, rows: list[Array]) -> dict[str, Array]:
        row = Row(0, self._text.context, self._text.mask_position)
        return _inputs(self._geometry, row, rows)

    def layer_errors(self, traced: dict[str, Array], number: int) -> dict[str, float]:
        weights = self._checkpoint.block(number)
        heads, dim = self._geometry.heads, self._geometry.head_dim
        fused = linear(traced["ln1"], weights.query_key_value)
        by_head = fused.reshape(-1, heads, 3, dim)
        by_head[:, :, :2] = by_head[:, :, :2, key_order(dim)]
        expected = {
            "query_key_value": by_head.transpose(0, 2, 1, 3).reshape(fused.shape),
            "dense": linear(traced["context.flat"], weights.dense),
            "up": gelu(linear(traced["ln2"], weights.up)),
            "down": linear(traced["gelu"], weights.down),
        }
        found = traced | {"up": traced["gelu"]}
        return {name: relative(found[name], value) for name, value in expected.items()}

    def logits(self, x: Array) -> Array:
        return lm_head(x, self._checkpoint.head(), self._geometry.layernorm_epsilon)


class _DecoderReference:
    def __init__(self, source: DecoderSource, geometry: Geometry, tokens: int) -> None:
        self._weights, self._config = source.weights, source.config
        self._geometry, self._tokens = geometry, tokens
        self._layers = {
            "query_key_value": ("input_norm", ("query", "key", "value")),
            "dense": ("context.flat", ("attention_output",)),
            "gate_up": ("post_attention_norm", ("silu", "up")),
            "down": ("gated", ("down",)),
        }
        behind = [name for _, names in self._layers.values() for name in names]
        self.inside = [before for before, _ in self._layers.values()] + behind

    def block(self, x: Array, number: int) -> BlockValues:
        return decoder_block(x, self._weights, self._config, number)

    def keys_as_stored(self, keys: Array) -> Array:
        stored: Array = keys[:, :, head_order(self._config)].transpose(0, 2, 1)
        return stored

    def inputs(self, rows: list[Array]) -> dict[str, Array]:
        return _inputs(self._geometry, Row(0), rows)

    def layer_errors(self, traced: dict[str, Array], number: int) -> dict[str, float]:
        errors = {}
        for layer, (before, names) in self._layers.items():
            found = np.concatenate([traced[name] for name in names], axis=-1)
            expected = [self._linear(traced[before], number, name) for name in names]
            errors[layer] = relative(found, np.concatenate(expected, axis=-1))
        return errors

    def logits(self, x: Array) -> Array:
        return decoder_logits(x, self._weights, self._config)

    def _linear(self, x: Array, number: int, name: str) -> Array:
        """What the graph calls ``name``: a linear layer, the gate behind its SiLU."""
        prefix = f"blocks.{number}."
        if name == "silu":
            return silu(decoder_linear(x, self._weights, f"{prefix}gate"))
        values = decoder_linear(x, self._weights, prefix + name)
        if name not in ("query", "key"):
            return values
        by_head = values.reshape(len(x), -1, self._config.head_dim)
        ordered: Array = by_head[:, :, head_order(self._config)].reshape(values.shape)
        return ordered


def _inputs(geometry: Geometry, row: Row, rows: list[Array]) -> dict[str, Array]:
    tokens = len(rows[0])
    batch = [row] * len(rows)
    cos, sin = RotaryTable(geometry.turning, geometry.max_context).at(batch, tokens)
    heads, dim = geometry.kv_heads, geometry.head_dim
    return {
        "x": np.stack(rows),
        "mask": attention_mask(batch, tokens, 0),
        "cos": cos,
        "sin": sin,
        "past_k": np.zeros((len(rows), heads, dim, 0), np.float32),
        "past_v": np.zeros((len(rows), heads, 0, dim), np.float32),
    }
