"""What a bundle holds, as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from runtime.manifest import Manifest, Variant
from scheduler.units import format_size


def variant_name(variant: Variant) -> str:
    """``mnn fp16``, ``mnn int4 block 128``."""
    block = f" block {variant.weight_block}" if variant.weight_block else ""
    return f"{variant.engine} {variant.precision}{block}"


def sizes_table(manifest: Manifest) -> Table:
    """Sizes on disk: a row per part, a column per way to store it; equal blocks share a row."""
    columns = list(
        dict.fromkeys(variant_name(one) for part in manifest.parts for one in part.variants)
    )
    table = Table("part", *columns, title="Sizes on disk (measured)", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("embedding (bf16)", format_size(manifest.embedding.file.size_bytes))
    for names, sizes in _runs(manifest):
        label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}, each"
        table.add_row(label, *(_cell(sizes.get(column)) for column in columns))
    totals = [
        sum(
            one.size_bytes
            for part in manifest.parts
            for one in part.variants
            if variant_name(one) == column
        )
        for column in columns
    ]
    table.add_section()
    table.add_row("all parts", *map(format_size, totals))
    return table


def _runs(manifest: Manifest) -> list[tuple[list[str], dict[str, int]]]:
    """Neighbouring parts of equal sizes, together."""
    runs: list[tuple[list[str], dict[str, int]]] = []
    for part in manifest.parts:
        sizes = {variant_name(one): one.size_bytes for one in part.variants}
        if runs and runs[-1][1] == sizes:
            runs[-1][0].append(part.name)
        else:
            runs.append(([part.name], sizes))
    return runs


def _cell(size_bytes: int | None) -> str:
    return "–" if size_bytes is None else format_size(size_bytes)
