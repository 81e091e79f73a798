"""Summary: a report's title, its answer in a sentence or two, and the four figures at its top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.cell import Cell
from scheduler.report.document import Report
from scheduler.report.words import (
    blocks_text,
    limit_text,
    precision_text,
    rate_text,
    setting_text,
    short_name,
)
from scheduler.units import format_size


@dataclass(frozen=True)
class Figure:
    """A number that a reader shall see first."""

    value: str
    caption: str


def title_of(report: Report) -> str:
    """Name models and machines, as many as a heading takes."""
    models = _few([facts.name for facts in report.models], "models")
    machines = _few([short_name(machine.name) for machine in report.machines], "machines")
    return f"{models} on {machines}"


def lead_of(cells: Sequence[Cell]) -> str:
    """The answer of a sweep in one or two sentences."""
    first = cells[0]
    if len(cells) == 1:
        return f"{_told(first)}; {limit_text(first.limit)}."
    running = [cell for cell in cells if cell.fits]
    resident = sum(cell.verdict == "resident" for cell in cells)
    lead = f"{len(running):,} of {len(cells):,} combinations run, {resident:,} with every block on"
    lead += " a GPU."
    if running:
        fastest = max(running, key=lambda cell: cell.tokens_per_second_per_slot or 0)
        lead += f" The fastest: {_told(fastest)}."
    return lead


def figures_of(report: Report) -> list[Figure]:
    """Four numbers for the top of the page."""
    running = [cell for cell in report.cells if cell.fits]
    figures = [Figure(f"{len(running):,} of {len(report.cells):,}", "combinations run")]
    if len(report.cells) == 1:
        cell = report.cells[0]
        figures = [Figure(blocks_text(cell), "blocks on the GPU")]
    if running:
        fastest = max(running, key=lambda cell: cell.tokens_per_second_per_slot or 0)
        rate = rate_text(fastest.tokens_per_second_per_slot)
        where = f"{short_name(fastest.machine)}, {_precision(fastest)}"
        figures.append(
            Figure(f"{rate} tok/s", f"fastest a slot: {where} ({fastest.speed_provenance})")
        )
    least = min(report.answers, key=lambda answers: answers.vram_for_all_blocks_bytes)
    figures.append(
        Figure(
            format_size(least.vram_for_all_blocks_bytes),
            f"VRAM for all blocks of {least.setting.model} at"
            f" {least.setting.gpu_precision} (estimated)",
        )
    )
    cheapest = [answers.cheapest for answers in report.answers if answers.cheapest]
    if cheapest:
        buy = min(cheapest, key=lambda offer: offer.price_usd)
        figures.append(
            Figure(
                f"${buy.price_usd:,}",
                f"at launch, the cheapest card for {report.target_tokens_per_second:g} tok/s:"
                f" {short_name(buy.gpu)}, {_precision(buy.cell)} (estimated)",
            )
        )
    else:
        longest = max(report.answers, key=lambda answers: answers.largest_context.count)
        figures.append(
            Figure(
                f"{longest.largest_context.count:,}",
                f"tokens, the largest context: {setting_text(longest.setting)} (estimated)",
            )
        )
    return figures


def _told(cell: Cell) -> str:
    blocks = f"{blocks_text(cell)} blocks on the GPU"
    if cell.tokens_per_second is None:
        return f"{cell.model} on {short_name(cell.machine)} at {_precision(cell)}: {blocks}"
    return (
        f"{cell.model} on {short_name(cell.machine)} at {_precision(cell)}, {blocks},"
        f" {rate_text(cell.tokens_per_second_per_slot)} tok/s a slot ({cell.speed_provenance})"
    )


def _few(names: Sequence[str], kind: str) -> str:
    if len(names) > 3:
        return f"{len(names)} {kind}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _precision(cell: Cell) -> str:
    return precision_text(cell.gpu_precision, cell.cpu_precision)
