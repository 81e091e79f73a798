"""What bundles hold and how they differ, as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from rich.table import Table

from runtime.bundle_diff import BundleDiff, encoding_name
from runtime.geometry import Geometry
from runtime.manifest import How, Manifest
from scheduler.units import format_size


def facts_table(manifest: Manifest) -> Table:
    """Model, geometry, special tokens and origin, a row for each."""
    geometry, tokens = manifest.geometry, manifest.tokens
    table = Table(show_header=False, title=manifest.model, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("family", geometry.family)
    table.add_row("blocks", str(geometry.blocks))
    table.add_row("width", f"{geometry.hidden_size} ({_heads(geometry)} of {geometry.head_dim})")
    table.add_row("feed-forward", str(geometry.ffn_size))
    table.add_row("vocabulary", str(geometry.vocab_size))
    limit = " (its sliding window)" if geometry.sliding_window else ""
    table.add_row("longest context", f"{geometry.max_context}{limit}")
    if tokens is not None:
        named = ", ".join(f"{name} {one}" for name, one in tokens.model_dump().items())
        table.add_row("special tokens", named)
    table.add_row("answers end at", ", ".join(map(str, sorted(manifest.end_ids))))
    origin = f"sha256 {manifest.source_sha256}" if manifest.source_sha256 else "unknown"
    table.add_row("checkpoint", f"{manifest.source_precision}, {origin}")
    table.add_row(
        "made by", ", ".join(f"{name} {one}" for name, one in manifest.made_by.items()) or "unknown"
    )
    return table


def _heads(geometry: Geometry) -> str:
    shared = geometry.kv_heads < geometry.heads
    return f"{geometry.heads} heads{f', {geometry.kv_heads} of keys,' if shared else ''}"


def sizes_table(manifest: Manifest) -> Table:
    """Sizes on disk: a row per part, a column per encoding; equal neighbours share a row."""
    columns = list(
        dict.fromkeys(encoding_name(one) for part in manifest.parts for one in part.variants)
    )
    table = Table("part", *columns, title="Sizes on disk (measured)", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    embedding = manifest.embedding
    table.add_row(f"embedding ({embedding.dtype})", format_size(embedding.file.size_bytes))
    sizes = [
        (part.name, {encoding_name(one): one.size_bytes for one in part.variants})
        for part in manifest.parts
    ]
    for held, run in groupby(sizes, key=lambda item: item[1]):
        names = [name for name, _ in run]
        label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}, each"
        table.add_row(label, *(_cell(held.get(column)) for column in columns))
    totals = [sum(held.get(column, 0) for _, held in sizes) for column in columns]
    table.add_section()
    table.add_row("all parts", *map(format_size, totals))
    return table


def stored_lines(manifest: Manifest) -> list[str]:
    """What became of a GGUF file's own integers: a line for each encoding."""
    counts: dict[str, Counter[tuple[How, str]]] = {}
    for part in manifest.parts:
        for variant in part.variants:
            for one in variant.stored:
                of_encoding = counts.setdefault(encoding_name(variant), Counter())
                of_encoding[one.how, one.type] += one.matrices
    return [
        f"{encoding}: " + "; ".join(_stored(*item) for item in sorted(found.items()))
        for encoding, found in counts.items()
    ]


_FLOATS = ("F32", "F16", "BF16")
_WAYS: dict[How, str] = {
    "exact": "taken over without loss",
    "rounded scales": "taken over, scales rounded to fp16",
    "requantised": "requantised",
}


def _stored(of: tuple[How, str], matrices: int) -> str:
    how, type_name = of
    way = "quantised" if how == "requantised" and type_name in _FLOATS else _WAYS[how]
    return f"{matrices} matri{'x' if matrices == 1 else 'ces'} of {type_name} {way}"


def diff_tables(diff: BundleDiff) -> list[Table]:
    """What the bundles state differently, and a verdict on every piece; neighbours share a row."""
    tables = []
    if diff.facts:
        facts = Table("", "first", "second", title="Stated differently", title_justify="left")
        for fact in diff.facts:
            facts.add_row(fact.name, str(fact.first), str(fact.second))
        tables.append(facts)
    pieces = Table("part", "stored as", "verdict", title="Contents", title_justify="left")
    by_encoding = sorted(diff.pieces, key=lambda one: one.encoding)
    for (encoding, verdict), run in groupby(
        by_encoding, key=lambda one: (one.encoding, one.verdict)
    ):
        names = [one.piece for one in run]
        label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        pieces.add_row(label, encoding, verdict)
    return [*tables, pieces]


def _cell(size_bytes: int | None) -> str:
    return "–" if size_bytes is None else format_size(size_bytes)
