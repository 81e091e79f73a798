"""Stored integers and scales of a GGUF model into MNN's files, where MNN can hold them.

The converter quantises what it is given, which decides the layout of its file; then the integers,
scales and minimums that GGUF stores are put in their place. MNN's scales and minimums are fp16: of
Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 they are taken over bit by bit; those of Q4_K and Q5_K are products
of two numbers and are rounded, which changes weights by less than 0.1 % where a second quantisation
at four bits would change it by up to 8 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.export.decoder_graph import head_order
from runtime.export.gguf_integers import BITS, FP16_SCALES, GROUP
from runtime.export.gguf_source import GgufSource
from runtime.export.mnn_layers import MnnLayer, quantised_layers, read_rows, write_rows
from runtime.export.model_id import set_model_id
from runtime.export.quantised_rows import QuantisedRows
from runtime.export.weight_source import expected_shapes
from runtime.manifest import How
from scheduler.errors import BundleError

_VALUES_AT_ONCE = 4 << 20
# The converter's own rounding of the same weights differs by up to about 0.1 (measured); weights of
# another layer, or in another order, by more than 1.
_SAME_LAYER = 0.4


@dataclass(frozen=True)
class Takeover:
    """How each matrix of one part came into MNN's file, by its canonical name.

    ``rounding`` is the largest relative error that rounded scales made in a matrix: the norm of the
    difference over the norm.
    """

    how: dict[str, How]
    rounding: float


def take_over(source: GgufSource, part: str, mnn_path: Path) -> Takeover:
    """Replace what can be replaced in the file of ``part``: ``block_N`` or ``lm_head``.

    ``mnn_path`` was converted at int4 or int8 from the weights of ``source``. Raises BundleError
    when the file is not built as expected, or a layer in it is not the one of that name.
    """
    weights = mnn_path.with_name(mnn_path.name + ".weight")
    layers, how, rounding = quantised_layers(mnn_path), dict[str, How](), 0.0
    for name, layer_name in layer_names(source, part).items():
        layer = layers.get(layer_name)
        if layer is None or source.shape(name) != (layer.rows, layer.width):
            raise BundleError(
                f"{mnn_path.name} has no quantised layer {layer_name} of shape"
                f" {source.shape(name)}; install the version of MNN that constraints.txt names."
            )
        type_name = source.type_name(name)
        fits = BITS.get(type_name, 9) <= layer.bits and layer.group == GROUP
        error = _replace(source, name, weights, layer) if fits else None
        if error is None:
            how[name] = "requantised"
        else:
            how[name] = "exact" if type_name in FP16_SCALES else "rounded scales"
            rounding = max(rounding, error)
    if set(how.values()) != {"requantised"}:
        set_model_id(mnn_path, weights)
    return Takeover(how, rounding)


def layer_names(source: GgufSource, part: str) -> dict[str, str]:
    """Names of the layers in a part's graph by the canonical names of their weights."""
    if part == "lm_head":
        stem = "embedding" if source.config.tied_embeddings else "lm_head"
        return {f"{stem}.weight": "logits"}
    prefix = f"blocks.{part.removeprefix('block_')}."
    return {
        name: name.removeprefix(prefix).removesuffix(".weight")
        for name, shape in expected_shapes(source.config).items()
        if name.startswith(prefix) and len(shape) == 2
    }


def _replace(source: GgufSource, name: str, weights: Path, layer: MnnLayer) -> float | None:
    """Write a matrix; the relative error of its scales' rounding, None where fp16 is too narrow."""
    difference = norm = 0.0
    for start, exact in _pieces(source, name, layer):
        rows = exact.with_fp16_scales()
        if not (np.isfinite(rows.scales).all() and np.isfinite(rows.minimums).all()):
            return None
        if start == 0:
            _require_same(weights, layer, rows)
        if source.type_name(name) not in FP16_SCALES:
            values = exact.values()
            norm += float(np.square(values).sum(dtype=np.float64))
            difference += float(np.square(rows.values() - values).sum(dtype=np.float64))
        write_rows(weights, layer, start, rows)
    return float(np.sqrt(difference / norm)) if norm else 0.0


def _pieces(source: GgufSource, name: str, layer: MnnLayer) -> Iterator[tuple[int, QuantisedRows]]:
    """A matrix in pieces of whole heads, queries and keys in the order of the graph."""
    head_dim = source.config.head_dim
    step = max(1, _VALUES_AT_ONCE // layer.width // head_dim) * head_dim
    for start in range(0, layer.rows, step):
        stop = min(start + step, layer.rows)
        rows = source.stored(name, start, stop)
        if layer.name in ("query", "key"):
            heads = np.arange(0, stop - start, head_dim)[:, None]
            rows = rows.at((heads + head_order(source.config)).reshape(-1))
        yield start, rows


def _require_same(weights: Path, layer: MnnLayer, ours: QuantisedRows) -> None:
    """Refuse to write over a layer that is not ours: some rows tell."""
    count = min(256, len(ours.integers))
    there, expected = (
        rows.values() for rows in (read_rows(weights, layer, 0, count), ours.at(slice(count)))
    )
    if np.linalg.norm(there - expected) > _SAME_LAYER * np.linalg.norm(expected):
        raise BundleError(
            f"{layer.name} in {weights.name} holds other weights than the model's; install the"
            " version of MNN that constraints.txt names."
        )
