"""View: a report arranged for reading, shared by the page and by Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.cell import Cell
from scheduler.inverse import MORE_VRAM_BYTES
from scheduler.report.chart import Chart
from scheduler.report.curves import curve_charts, report_index
from scheduler.report.document import Answers, MachineFacts, ModelFacts, PlanOf, Report
from scheduler.report.layer_map import layer_map
from scheduler.report.memory_bars import memory_bars
from scheduler.report.words import (
    cheapest_text,
    gain_text,
    most_text,
    precision_text,
    setting_text,
    short_name,
    sizes_text,
    slots_text,
)
from scheduler.units import format_size

_COLUMNS_THAT_FIT = 4
LARGEST_PAGE = 2_000
"""Verdicts that a page or Markdown file shows one by one; CSV and JSON hold any number."""


@dataclass(frozen=True)
class Matrix:
    """Verdicts of a model: machines one way; precision, context and slots the other way.

    The shorter side runs across, so that the table fits a screen.
    """

    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class PlanView:
    """One drawn plan."""

    heading: str
    cell: Cell
    layers: Chart
    memory: Chart


@dataclass(frozen=True)
class ModelView:
    """A model's part of the report."""

    facts: ModelFacts
    anchor: str
    cells: Sequence[Cell]
    matrix: Matrix
    plans: Sequence[PlanView]
    plans_left_out: int
    curves: Sequence[Chart]
    lines_left_out: int
    answers: Sequence[Answers]
    answers_left_out: int

    @property
    def charts(self) -> list[Chart]:
        """Every drawing of this model, in the order of the page."""
        drawn = [chart for plan in self.plans for chart in (plan.layers, plan.memory)]
        return [*drawn, *self.curves]


def model_views(report: Report) -> list[ModelView]:
    """Arrange every model's verdicts, drawings and answers."""
    return [_model_view(report, facts) for facts in report.models]


def answer_columns(report: Report) -> list[str]:
    """The inverse questions, in the order of `answer_row`."""
    columns = ["setting", "largest context", "most slots", "VRAM for all blocks", "and lm_head"]
    columns += [f"{format_size(more).replace('.00', '')} more VRAM" for more in MORE_VRAM_BYTES]
    if report.target_tokens_per_second is not None:
        columns.append(f"cheapest card for {report.target_tokens_per_second:g} tok/s a slot")
    return columns


def answer_row(report: Report, answers: Answers) -> list[str]:
    """The inverse answers of one setting."""
    context, slots = answers.largest_context, answers.most_slots
    gains = {more.more_bytes: gain_text(answers.now, more.cell) for more in answers.more_vram}
    row = [
        setting_text(answers.setting),
        most_text(context.count, context.capped, "tokens"),
        most_text(slots.count, slots.capped, "slots"),
        format_size(answers.vram_for_all_blocks_bytes),
        format_size(answers.vram_with_lm_head_bytes),
        *(gains.get(more, "no GPU") for more in MORE_VRAM_BYTES),
    ]
    if report.target_tokens_per_second is not None:
        row.append(
            cheapest_text(answers.cheapest, answers.without_gpu, report.target_tokens_per_second)
        )
    return row


def column_text(cell: Cell) -> str:
    """What a column of the matrix is about: ``fp16 / fp32, 2,048 tokens, 1 slot``."""
    precision = precision_text(cell.gpu_precision, cell.cpu_precision)
    return f"{precision}, {cell.context_tokens:,} tokens, {slots_text(cell.slots)}"


def _model_view(report: Report, facts: ModelFacts) -> ModelView:
    number = report_index(report, facts.name)
    plans = [drawn for drawn in report.plans if drawn.setting.model == facts.name]
    answers = [given for given in report.answers if given.setting.model == facts.name]
    lines = {
        curve.setting.model_dump_json()
        for curve in report.curves
        if curve.setting.model == facts.name
    }
    cells = [cell for cell in report.cells if cell.model == facts.name]
    settings = len({(cell.machine, cell.gpu_precision, cell.cpu_precision) for cell in cells})
    names = {machine.name: _device_names(machine) for machine in report.machines}
    return ModelView(
        facts=facts,
        anchor=f"model-{number}",
        cells=cells,
        matrix=_matrix(report, facts.name),
        plans=[
            _plan_view(f"{number}-{place}", drawn, answers, names[drawn.setting.machine])
            for place, drawn in enumerate(plans, start=1)
        ],
        plans_left_out=settings - len(plans),
        curves=curve_charts(report, facts.name),
        lines_left_out=settings - len(lines),
        answers=answers,
        answers_left_out=settings - len(answers),
    )


def _device_names(machine: MachineFacts) -> dict[str, str]:
    gpus = {
        f"gpu{number}": f"gpu{number}: {short_name(gpu.name)}"
        for number, gpu in enumerate(machine.gpus)
    }
    return {**gpus, "cpu": f"CPU: {machine.cpu}"}


def _plan_view(
    slug: str, drawn: PlanOf, answers: Sequence[Answers], names: dict[str, str]
) -> PlanView:
    return PlanView(
        heading=setting_text(drawn.setting),
        cell=next(given.now for given in answers if given.setting == drawn.setting),
        layers=layer_map(slug, drawn, names),
        memory=memory_bars(slug, drawn),
    )


def _matrix(report: Report, model: str) -> Matrix:
    by_machine: dict[str, list[Cell]] = {}
    for cell in report.cells:
        if cell.model == model:
            by_machine.setdefault(cell.machine, []).append(cell)
    settings = [column_text(cell) for cell in next(iter(by_machine.values()))]
    machines = [_machine_text(cells[0]) for cells in by_machine.values()]
    if len(settings) <= max(len(machines), _COLUMNS_THAT_FIT):
        return Matrix("GPU", settings, list(zip(machines, by_machine.values(), strict=True)))
    rows = list(zip(settings, zip(*by_machine.values(), strict=True), strict=True))
    return Matrix("at", machines, rows)


def _machine_text(cell: Cell) -> str:
    if not cell.vram_free_bytes:
        return cell.machine
    return f"{cell.machine} ({sizes_text(cell.vram_free_bytes)} free)"
