"""`glm-plan bundle`: look into bundles, check them, compare them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

DIFF_SCHEMA = "glm-plan/bundle-diff/1"
VERIFY_SCHEMA = "glm-plan/bundle-verify/1"
CHECK_SCHEMA = "glm-plan/bundle-check/1"

_BUNDLE = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Look into exported models: what is inside, whether it is intact, how two differ."""


@command.command()
@click.argument("bundle", type=_BUNDLE)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Show the model, its geometry, where it came from, and the size of every part."""
    from runtime.article.folder import open_model

    manifest = open_model(bundle).manifest
    if as_json:
        click.echo(manifest.model_dump_json(indent=1, by_alias=True))
        return
    from rich.console import Console

    from runtime.cli.bundle_view import facts_table, sizes_table, stored_lines

    console = Console()
    console.print(facts_table(manifest))
    console.print(sizes_table(manifest))
    for line in stored_lines(manifest):
        console.print(line, highlight=False, soft_wrap=True)


@command.command()
@click.argument("bundle", type=_BUNDLE)
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON ({VERIFY_SCHEMA}).")
def verify(bundle: Path, as_json: bool) -> None:
    """Compare the checksum of every file with the manifest; exit code 2 when one differs."""
    from rich.console import Console
    from rich.progress import Progress

    from runtime.bundle import open_bundle, verify_bundle
    from scheduler.units import format_size

    opened = open_bundle(bundle)
    size_bytes = opened.manifest.size_bytes
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checksums", total=size_bytes)
        verify_bundle(opened, on_file=lambda file: bar.advance(task, file.size_bytes))
    paths = {file.path for file in opened.manifest.files()}
    unlisted = sorted(
        path
        for file in bundle.rglob("*")
        if file.is_file() and (path := file.relative_to(bundle).as_posix()) not in paths
    )
    unlisted.remove("manifest.json")
    if as_json:
        document = {
            "schema": VERIFY_SCHEMA,
            "files": len(paths),
            "size_bytes": size_bytes,
            "unlisted_files": unlisted,
        }
        click.echo(json.dumps(document))
        return
    click.echo(f"{len(paths)} files, {format_size(size_bytes)}: all as the manifest says.")
    for path in unlisted:
        click.echo(f"not part of the bundle: {path}")


@command.command()
@click.argument("first", type=_BUNDLE)
@click.argument("second", type=_BUNDLE)
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON ({DIFF_SCHEMA}).")
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Compare two bundles by what their manifests say; exit code 1 when they differ.

    Two exports of one checkpoint by the same MNN are the same bytes; another version of MNN may
    write other graph files around the same weights, which counts as the same.
    """
    from runtime.bundle import open_bundle
    from runtime.bundle_diff import diff_manifests

    result = diff_manifests(open_bundle(first).manifest, open_bundle(second).manifest)
    if as_json:
        document = {"schema": DIFF_SCHEMA, "same": result.same} | dataclasses.asdict(result)
        click.echo(json.dumps(document))
    else:
        from rich.console import Console

        from runtime.cli.bundle_view import diff_tables

        console = Console()
        for table in diff_tables(result):
            console.print(table)
        click.echo("The bundles hold the same." if result.same else "The bundles differ.")
    sys.exit(0 if result.same else 1)


@command.command()
@click.argument("bundle", type=_BUNDLE)
@click.argument("checkpoint", type=_BUNDLE)
@click.option("--json", "as_json", is_flag=True, help=f"Print JSON ({CHECK_SCHEMA}).")
def check(bundle: Path, checkpoint: Path, as_json: bool) -> None:
    """Run every part of a bundle against the weights of its checkpoint, and show the errors.

    Exit code 2 when a layer, keys, values or an output are further off than rounding explains.
    """
    from runtime.cli.export import require_close, run_check, show_check

    report = run_check(checkpoint, bundle)
    if as_json:
        click.echo(json.dumps({"schema": CHECK_SCHEMA} | dataclasses.asdict(report)))
    else:
        show_check(report)
    require_close(report, bundle)
