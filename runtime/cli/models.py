"""`glm-plan models`: models by profile and on this disk, and how fast they would run here."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from scheduler.errors import UserInputError
from scheduler.model import (
    ModelSpec,
    StoredPrecision,
    block_bytes,
    block_kv_bytes_per_token,
    block_parameters,
    default_weight_block,
    embedding_bytes,
    kv_bytes_per_token,
    lm_head_bytes,
    total_parameters,
)
from scheduler.units import KIB, MIB, format_size
from scheduler.wording import listing, near_matches, shorten

if TYPE_CHECKING:
    from runtime.cli.models_here import Here
    from runtime.on_disk import OnDisk

SCHEMA = "glm-plan/models/1"
_PRECISIONS: tuple[StoredPrecision, ...] = ("fp32", "fp16", "int8", "int4")


@dataclass(frozen=True)
class Row:
    """A model that is known by profile or on this disk; `spec` and `here` None without geometry."""

    name: str
    spec: ModelSpec | None
    disk: OnDisk
    here: Here | None
    repo: str | None


@click.command()
@click.argument("text", nargs=-1)
@click.option("--disk", "on_disk_only", is_flag=True, help="Only models that are on this disk.")
@click.option("--sizes", is_flag=True, help="Show the sizes of parts instead.")
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
def command(text: tuple[str, ...], on_disk_only: bool, sizes: bool, as_json: bool) -> None:
    """List models, or those whose name or family contains every word of TEXT.

    Shows what is on this disk, checkpoints and exported bundles, and how fast each would run on
    this machine, as `glm-plan --policy fit` plans it: at a precision that is exported, or at any
    where none is. Add models of your own with `glm-plan pull OWNER/NAME`, or as TOML files in the
    configuration directory's models folder, in the form of the shipped ones.
    """
    names = _chosen(" ".join(text).casefold())
    rows = _rows(names, on_disk_only)
    if as_json:
        click.echo(json.dumps(document(rows), indent=2, ensure_ascii=False))
    elif sizes:
        _show_sizes([row.spec for row in rows if row.spec])
    elif rows:
        _show(rows)
    else:
        click.echo("None of them is on this disk; `glm-plan pull NAME` fetches one.")
    for row in rows:
        if row.disk.fault:
            click.echo(f"{row.name}: {row.disk.fault}", err=True)


def document(rows: list[Row]) -> dict[str, Any]:
    """The JSON form: geometry as in the profiles, sizes in bytes, paths, predicted speed.

    `ungauged` are models on the disk whose geometry is not known before they are exported.
    """
    return {
        "schema": SCHEMA,
        "models": [_entry(row.spec) | _place(row) for row in rows if row.spec],
        "ungauged": [{"name": row.name} | _place(row) for row in rows if not row.spec],
    }


def _chosen(words: str) -> list[str]:
    from runtime.model_store import store_names
    from scheduler.profiles import load_models

    families = {spec.name: spec.family for spec in load_models()}
    names = sorted({*families, *store_names()})
    chosen = [name for name in names if _matches(f"{name} {families.get(name, '')}", words)]
    if not chosen:
        raise UserInputError(f"No model matches {shorten(words)}; {near_matches(words, names)}")
    return chosen


def _rows(names: list[str], on_disk_only: bool) -> list[Row]:
    from runtime.cli.models_here import runs_here
    from runtime.model_store import repository_of, stored_model
    from runtime.on_disk import look_at
    from scheduler.planning import this_machine_planning

    rows = []
    host, speeds = this_machine_planning().machine()
    for name in names:
        model = stored_model(name)
        disk, spec = look_at(model)
        if disk.nothing and (on_disk_only or spec is None):
            continue
        here = runs_here(spec, disk.precisions, host, speeds) if spec else None
        repo = model.origin.repo if model.origin else repository_of(name)
        rows.append(Row(name, spec, disk, here, repo))
    return rows


def _place(row: Row) -> dict[str, Any]:
    disk = dataclasses.asdict(row.disk)
    for key in ("bundle", "checkpoint"):
        disk[key] = disk[key] and str(disk[key])
    here = dataclasses.asdict(row.here) if row.here else None
    return {"repo": row.repo, "on_disk": disk, "here": here}


def _entry(spec: ModelSpec) -> dict[str, Any]:
    return dataclasses.asdict(spec) | {
        "parameters": total_parameters(spec),
        "block_parameters": block_parameters(spec),
        "block_bytes": {name: block_bytes(spec, name) for name in _PRECISIONS},
        "lm_head_bytes": {name: lm_head_bytes(spec, name) for name in _PRECISIONS},
        "embedding_bytes": embedding_bytes(spec),
        "int4_weight_block": default_weight_block(spec),
        "block_kv_bytes_per_token": block_kv_bytes_per_token(spec),
        "kv_bytes_per_token": kv_bytes_per_token(spec),
        "provenance": {"geometry": "given", "sizes": "estimated"},
    }


def _matches(text: str, words: str) -> bool:
    return all(word in text.casefold() for word in words.split())


def _show(rows: list[Row]) -> None:
    from runtime.cli.tables import print_table

    print_table(
        ("model",),
        ("size", "blocks", "context", "tok/s"),
        (
            (
                row.name,
                _count(total_parameters(row.spec)) if row.spec else "-",
                str(row.spec.blocks) if row.spec else "-",
                f"{row.spec.max_context:,}" if row.spec else "-",
                *_speed(row.here),
                _disk(row.disk),
            )
            for row in rows
        ),
        _speed_note([row.here for row in rows if row.here]),
        ("at", "on disk"),
    )


def _speed(here: Here | None) -> tuple[str, str]:
    """Predicted speed and the precision it is at."""
    if here is None:
        return "-", ""
    if not here.fits or here.decode_tokens_per_second is None:
        return "-", "too large"
    speed = here.decode_tokens_per_second
    return f"{speed:.3g}" if speed < 100 else f"{speed:.0f}", " ".join(here.precision)


def _disk(disk: OnDisk) -> str:
    parts = []
    if disk.fault is not None:
        parts.append("damaged bundle")
    elif disk.bundle_bytes is not None:
        parts.append(f"{' '.join(disk.precisions)} {format_size(disk.bundle_bytes)}")
    if disk.checkpoint_bytes is not None:
        parts.append(f"checkpoint {format_size(disk.checkpoint_bytes)}")
    if disk.interrupted:
        parts.append("partly pulled")
    return ", ".join(parts)


def _speed_note(every: list[Here]) -> str:
    fitting = [here for here in every if here.fits]
    contexts = sorted({here.context_tokens or 0 for here in fitting}, reverse=True)
    labels = listing(sorted({str(here.provenance) for here in fitting}) or ["estimated"], "and")
    at = listing([f"{one:,}" for one in contexts], "or") if contexts else "any"
    return (
        f"Size in parameters. tok/s: decode with {at} tokens of context, {labels}, by the fastest"
        " placement at the most exact precision that fits the memory that is free now. --sizes"
        " shows the sizes of parts."
    )


def _show_sizes(specs: list[ModelSpec]) -> None:
    from runtime.cli.tables import print_table

    print_table(
        ("model", "family"),
        ("size", "blocks", "fp16 MiB", "int8", "int4", "KV KiB", "context"),
        (
            (
                spec.name,
                spec.family,
                _count(total_parameters(spec)),
                str(spec.blocks),
                *(f"{block_bytes(spec, name) / MIB:.1f}" for name in _PRECISIONS[1:]),
                f"{kv_bytes_per_token(spec) / KIB:.1f}",
                f"{spec.max_context:,}",
            )
            for spec in specs
        ),
        "Size in parameters. Estimated from the published geometry: MiB of one block in a file, by"
        " precision; KiB of KV cache that one token takes in all blocks at fp32.",
    )


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 10**9 else f"{parameters / 1e6:.1f} M"
