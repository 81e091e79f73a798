"""A GGUF file as the exporter needs it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from runtime.export.gguf_source import GgufSource
from runtime.export.gguf_stored import GgufStored
from runtime.export.model_source import DecoderSource
from runtime.export.tensor_rows import SourcePrecision
from runtime.export.tokenizer_files import gguf_tokenizer_for_bundle
from runtime.export.weight_source import expected_shapes

_PRECISIONS: dict[frozenset[str], SourcePrecision] = {
    frozenset({"F16"}): "fp16",
    frozenset({"BF16"}): "bf16",
}
_FLOATS = {"F32", "F16", "BF16"}


def open_gguf(path: Path) -> DecoderSource:
    """Open a GGUF model, one file or any of the files that it is split into.

    Raises CheckpointError for what is damaged, hostile, or of an architecture that is not read.
    """
    source = GgufSource(path)
    config = source.config
    return DecoderSource(
        location=path,
        config=config,
        weights=source,
        precision=_precision(source),
        files=source.files,
        tokenizer=partial(gguf_tokenizer_for_bundle, source.header.metadata, path),
        stored=GgufStored(source),
    )


def _precision(source: GgufSource) -> SourcePrecision:
    """The type of the matrices; where they differ, the one that holds every other."""
    shapes = expected_shapes(source.config)
    types = {source.type_name(name) for name, shape in shapes.items() if len(shape) == 2}
    if types <= _FLOATS:
        return _PRECISIONS.get(frozenset(types), "fp32")
    precision = GgufStored(source).precision("block_0")
    return "int8" if precision == "int8" else "int4"
