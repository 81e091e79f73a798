"""`glm-plan models`: the models that a plan can be made for, and the sizes of their parts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

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
from scheduler.units import KIB, MIB
from scheduler.wording import near_matches, shorten

SCHEMA = "glm-plan/models/1"
_PRECISIONS: tuple[StoredPrecision, ...] = ("fp32", "fp16", "int8", "int4")


@click.command()
@click.argument("text", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
def command(text: tuple[str, ...], as_json: bool) -> None:
    """List model profiles, or those whose name or family contains every word of TEXT.

    Sizes are estimated from the model's geometry. Add models of your own as TOML files in the
    configuration directory's models folder, in the form of the shipped ones.
    """
    from scheduler.profiles import load_models

    every = load_models()
    words = " ".join(text).casefold()
    chosen = [spec for spec in every if _matches(spec, words)]
    if not chosen:
        near = near_matches(words, [spec.name for spec in every])
        raise UserInputError(f"No model matches {shorten(words)}; {near}")
    if as_json:
        click.echo(json.dumps(document(chosen), indent=2, ensure_ascii=False))
    else:
        _show(chosen)


def document(specs: list[ModelSpec]) -> dict[str, Any]:
    """The JSON form: geometry as in the profiles, sizes in bytes."""
    return {"schema": SCHEMA, "models": [_entry(spec) for spec in specs]}


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


def _matches(spec: ModelSpec, words: str) -> bool:
    haystack = f"{spec.name} {spec.family}".casefold()
    return all(word in haystack for word in words.split())


def _show(specs: list[ModelSpec]) -> None:
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
