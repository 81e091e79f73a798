"""`glm-plan doctor`: is everything here that a model needs, and what to do where it is not."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runtime.doctor.finding import Finding

SCHEMA = "glm-plan/doctor/1"
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.option(
    "--bundle",
    "bundle_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A model to look into.  [default: the plan's, or the one that ships]",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A plan that shall run here: is there memory and a backend for every stage?",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="PORT", help="A port to serve at: is it free?"
)
@click.option(
    "--deep",
    is_flag=True,
    help="Compare checksums: the bundle's, and those of installed packages.",
)
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
def command(
    bundle_dir: Path | None, plan_file: Path | None, port: int | None, deep: bool, as_json: bool
) -> None:
    """Check machine, installation, engines, a model and a plan; nothing is changed.

    Every finding is ok, warn (it works, but not as well as it could) or fail, and says what to do.
    The exit code is 1 when something failed, else 0.

    \b
    glm-plan doctor                                  can anything run here?
    glm-plan doctor --plan plan.json --port 8080     can this plan be served now?
    glm-plan doctor --bundle DIR --deep              is this model whole?
    """
    from runtime.doctor.examine import examine

    findings = list(examine(bundle_dir, plan_file, port, deep=deep))
    counts = {status: sum(one.status == status for one in findings) for status in _STYLES}
    if as_json:
        listed = [dataclasses.asdict(one) for one in findings]
        document = {"schema": SCHEMA, "findings": listed, "counts": counts}
        click.echo(json.dumps(document, indent=2))
    else:
        _show(findings, counts)
    sys.exit(1 if counts["fail"] else 0)


def _show(findings: list[Finding], counts: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        text = Text(one.text)
        if one.remedy is not None:
            text.append(f": {one.remedy}", style="bold")
        table.add_row(Text(one.status, style=_STYLES[one.status]), Text(one.check), text)
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(table)
    else:
        _print_lines(findings)
    console.print(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")


def _print_lines(findings: list[Finding]) -> None:
    """A line for each finding, whole, for files and pipes."""
    width = max(len(one.check) for one in findings)
    for one in findings:
        remedy = "" if one.remedy is None else f": {one.remedy}"
        click.echo(f"{one.status:4}  {one.check:{width}}  {one.text}{remedy}")
