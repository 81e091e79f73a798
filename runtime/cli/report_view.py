"""The verdicts of a sweep on screen: a table, what binds where nothing runs, the cheapest card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from scheduler.cell import Cell
    from scheduler.report.study import Study

_LIMITS_SHOWN = 8


def show(study: Study, cells: Sequence[Cell]) -> None:
    """The verdicts on screen, and how to get the rest."""
    from runtime.cli.tables import print_table
    from scheduler.report.build import cheapest_cards
    from scheduler.report.summary import lead_of
    from scheduler.report.words import (
        VERDICT_WORDS,
        blocks_text,
        cheapest_text,
        limit_text,
        precision_text,
        rate_text,
        short_name,
    )

    speeds = " or ".join(sorted({cell.speed_provenance for cell in cells}))
    click.echo(lead_of(cells))
    click.echo()
    print_table(
        ("model", "on", "precision", "verdict"),
        ("context", "slots", "GPU blocks", "tok/s"),
        (
            (
                cell.model,
                short_name(cell.machine),
                precision_text(cell.gpu_precision, cell.cpu_precision),
                VERDICT_WORDS[cell.verdict],
                f"{cell.context_tokens:,}",
                str(cell.slots),
                blocks_text(cell),
                rate_text(cell.tokens_per_second_per_slot),
            )
            for cell in cells
        ),
        f"Memory estimated; tok/s of each slot at a full context, {speeds}.",
    )
    tight = [cell for cell in cells if not cell.fits]
    for cell in tight[:_LIMITS_SHOWN]:
        precision = precision_text(cell.gpu_precision, cell.cpu_precision)
        told = f"{cell.model} on {short_name(cell.machine)} at {precision}"
        click.echo(f"{told}: {limit_text(cell.limit)}.")
    for request, buy, alone in cheapest_cards(study):
        precision = precision_text(request.gpu_precision, request.cpu_precision)
        told = f"Cheapest card for {study.target_tps:g} tok/s, {request.model.name} at {precision}"
        click.echo(f"{told}: {cheapest_text(buy, alone, study.target_tps or 0)}.")
    click.echo("--out report.html makes the page: layer maps, charts, what would have to change.")
