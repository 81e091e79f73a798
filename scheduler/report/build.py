"""Build a report from a study: its verdicts, plans, curves and answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.capacity import judge, sweep
from scheduler.cell import Cell
from scheduler.errors import PlanError, UserInputError
from scheduler.inverse import (
    MORE_VRAM_BYTES,
    Buy,
    cheapest_gpu,
    largest_context,
    most_slots,
    vram_for_all_blocks,
    with_more_vram,
)
from scheduler.planner import make_plan
from scheduler.report.document import Answers, More, PlanOf, Report
from scheduler.report.facts import machine_facts, model_facts, setting_of
from scheduler.report.samples import study_curves
from scheduler.report.sources import ASSUMPTIONS, machine_notes, sources_of
from scheduler.report.study import Study, drawn_requests
from scheduler.request import PlanRequest

LARGEST_SWEEP = 100_000
"""Cells beyond which a report is refused; 10,000 take about two seconds."""
PLANS_PER_MODEL = 8
ANSWERS_PER_MODEL = 60


def build_report(study: Study) -> Report:
    """Answer a study. Raises UserInputError where it asks for more than 100,000 cells."""
    cells = list(study_cells(study))
    return Report(
        version=study.version,
        date=study.date,
        command=study.command,
        policy=study.policy,
        target_tokens_per_second=study.target_tps,
        models=[model_facts(model) for model in study.models],
        machines=[machine_facts(machine) for machine in study.machines],
        cells=cells,
        plans=list(_plans(study)),
        curves=list(study_curves(study)),
        answers=list(_answers(study)),
        assumptions=[*ASSUMPTIONS, *machine_notes(study.machines)],
        sources=sources_of(study.models, study.machines),
    )


def study_cells(study: Study) -> Iterable[Cell]:
    """The verdicts of a study alone. Raises UserInputError for more than 100,000 of them."""
    axes = (study.models, study.machines, study.precisions, study.contexts, study.slots)
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > LARGEST_SWEEP:
        raise UserInputError(
            f"The report asks for {count:,} combinations; the most is {LARGEST_SWEEP:,}. Leave"
            " out models, GPUs, precisions, contexts or slots."
        )
    return sweep(
        study.models,
        study.machines,
        study.precisions,
        study.contexts,
        study.slots,
        study.policy,
    )


def _plans(study: Study) -> Iterable[PlanOf]:
    for model in study.models:
        for request, machine in drawn_requests(study, model)[:PLANS_PER_MODEL]:
            try:
                plan = make_plan(request, machine.host, machine.speeds)
            except PlanError:
                continue  # the verdict has the numbers
            yield PlanOf(setting=setting_of(request, machine), plan=plan)


def cheapest_cards(study: Study) -> Iterable[tuple[PlanRequest, Buy | None, Cell]]:
    """For each model and precision the cheapest card that reaches the target, and no GPU at all.

    Nothing where the study has no target.
    """
    for model in study.models if study.target_tps is not None else ():
        for request, machine in drawn_requests(study, model)[:: len(study.machines)]:
            buy = cheapest_gpu(request, machine, study.catalogue, study.target_tps or 0)
            yield request, buy, judge(request, machine.without_gpus())


def _answers(study: Study) -> Iterable[Answers]:
    cheapest = {request: buy for request, buy, _ in cheapest_cards(study)}
    for model in study.models:
        for request, machine in drawn_requests(study, model)[:ANSWERS_PER_MODEL]:
            bigger = [(more, with_more_vram(request, machine, more)) for more in MORE_VRAM_BYTES]
            yield Answers(
                setting=setting_of(request, machine),
                now=judge(request, machine),
                largest_context=largest_context(request, machine),
                most_slots=most_slots(request, machine),
                vram_for_all_blocks_bytes=vram_for_all_blocks(request),
                vram_with_lm_head_bytes=vram_for_all_blocks(request, with_lm_head=True),
                without_gpu=judge(request, machine.without_gpus()),
                cheapest=cheapest.get(request),
                more_vram=[More(more_bytes=more, cell=cell) for more, cell in bigger if cell],
            )
