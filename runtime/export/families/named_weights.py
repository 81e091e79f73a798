"""NamedWeights: a Hugging Face checkpoint's tensors by canonical name, fused ones taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.export.decoder_config import DecoderConfig
from runtime.export.families.table import FAMILIES, Family
from runtime.export.tensor_files import TensorFiles
from runtime.export.tensor_rows import FLOATS, SourcePrecision, read_rows
from runtime.export.weight_source import Array, expected_shapes
from scheduler.errors import CheckpointError
from scheduler.wording import shorten

# Tables that old checkpoints carry along; they follow from the configuration.
_DERIVED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")


@dataclass(frozen=True)
class _Place:
    """Rows of a published tensor that hold a canonical one of this shape."""

    published: str
    start: int
    shape: tuple[int, ...]


class NamedWeights:
    """A WeightSource over the files of a checkpoint; nothing is read until asked for.

    Raises CheckpointError on opening for a tensor that is missing, unknown, of another shape than
    ``config`` implies, or not fp32, fp16 or bf16.
    """

    def __init__(self, tensors: TensorFiles, config: DecoderConfig, directory: Path) -> None:
        self._tensors = tensors
        self._places = _places(config, FAMILIES[config.family])
        _require_all(tensors, self._places, config, directory)
        kinds = {
            tensors.dtype(place.published)
            for name, place in self._places.items()
            if "norm" not in name and (name != "embedding.weight" or config.tied_embeddings)
        }
        self.precision: SourcePrecision = next(FLOATS[kind] for kind in FLOATS if kind in kinds)
        """The widest type of any linear layer."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Dimensions of a tensor by canonical name; None where there is none."""
        place = self._places.get(name)
        return place.shape if place is not None else None

    def tensor(self, name: str) -> Array:
        """The whole tensor as fp32; CheckpointError for NaN or infinite values."""
        return self.rows(name, 0, self._places[name].shape[0])

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Some rows of a tensor as fp32."""
        place = self._places[name]
        rows = slice(place.start + start, place.start + stop)
        return read_rows(self._tensors, place.published, rows, place.shape[1:])


def _places(config: DecoderConfig, family: Family) -> dict[str, _Place]:
    """Where the tensors of this configuration are expected, by canonical name."""
    shapes = expected_shapes(config)
    places: dict[str, _Place] = {}
    for published, names in _layout(config, family):
        for kind in ("weight", "bias"):
            start = 0
            for name in names:
                shape = shapes.get(f"{name}.{kind}")
                if shape is not None:
                    places[f"{name}.{kind}"] = _Place(f"{published}.{kind}", start, shape)
                    start += shape[0]
    return places


def _layout(config: DecoderConfig, family: Family) -> Iterator[tuple[str, list[str]]]:
    """Published layer names and the canonical ones whose rows they hold."""
    for canonical, published in family.outside.items():
        yield published, [canonical]
    for number in range(config.blocks):
        for published, names in family.inside.items():
            prefix = family.block.format(number)
            yield prefix + published, [f"blocks.{number}.{name}" for name in names]


def _require_all(
    tensors: TensorFiles, places: Mapping[str, _Place], config: DecoderConfig, directory: Path
) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for place in places.values():  # fused ones come in the order of their rows
        expected[place.published] = (place.start + place.shape[0], *place.shape[1:])
    present = set(tensors.names())
    missing = [name for name in expected if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{directory} lacks the tensor {missing[0]}{more}; expected a complete checkpoint of"
            f" family {config.family}."
        )
    tied_head = f"{FAMILIES[config.family].outside['lm_head']}.weight"
    unknown = sorted(
        name
        for name in present - expected.keys()
        if not name.endswith(_DERIVED) and not (config.tied_embeddings and name == tied_head)
    )
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise CheckpointError(
            f"{tensors.where(unknown[0])} has the tensor {shorten(unknown[0])}{more}, which a model"
            f" of family {config.family} with this config.json does not use; a bundle would leave"
            " it out."
        )
    for name, shape in expected.items():
        where, found, dtype = tensors.where(name), tensors.shape(name), tensors.dtype(name)
        if found != shape:
            raise CheckpointError(
                f"{where} has {name} of shape {list(found)}; config.json implies {list(shape)}."
            )
        if dtype not in FLOATS:
            raise CheckpointError(
                f"{where} stores {name} as {dtype}; expected float16, bfloat16 or float32."
            )
