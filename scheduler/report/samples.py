"""Samples: the points of every curve, one number of a setting varied at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from scheduler.capacity import judge
from scheduler.cell import Cell
from scheduler.inverse import most_slots, vram_for_all_blocks
from scheduler.machine import Machine, least_certain
from scheduler.model import ModelSpec
from scheduler.report.document import Axis, Curve, Point, Setting
from scheduler.report.facts import setting_of
from scheduler.report.study import Study, drawn_requests
from scheduler.request import PlanRequest
from scheduler.units import MIB

LINES_PER_CHART = 6
"""Settings of a model that get curves: as many as colours that everyone can tell apart."""

_VRAM_POINTS = 64
_CONTEXT_POINTS = 33
_LARGEST_SLOTS_SHOWN = 64


def study_curves(study: Study) -> Iterable[Curve]:
    for model in study.models:
        for request, machine in drawn_requests(study, model)[:LINES_PER_CHART]:
            setting = setting_of(request, machine)
            if machine.host.gpus:
                bigger = [(free, machine.with_vram(free)) for free in _vram_steps(study, model)]
                yield _curve(
                    setting, "vram", [(free, judge(request, where)) for free, where in bigger]
                )
            contexts = [replace(request, context=tokens) for tokens in _context_steps(model)]
            yield _curve(
                setting, "context", [(one.context_tokens, judge(one, machine)) for one in contexts]
            )
            slots = [replace(request, slots=count) for count in _slot_steps(request, machine)]
            yield _curve(setting, "slots", [(one.slots, judge(one, machine)) for one in slots])


def _curve(setting: Setting, against: Axis, judged: Sequence[tuple[int, Cell]]) -> Curve:
    return Curve(
        setting=setting,
        against=against,
        speed_provenance=least_certain([cell.speed_provenance for _, cell in judged]),
        points=[
            Point(
                x=x,
                verdict=cell.verdict,
                gpu_blocks=cell.gpu_blocks,
                step_seconds=cell.step_seconds,
                tokens_per_second=cell.tokens_per_second,
            )
            for x, cell in judged
        ],
    )


def _vram_steps(study: Study, model: ModelSpec) -> list[int]:
    """Evenly from nothing to beyond the largest card or the model, whichever needs more."""
    needs = [vram_for_all_blocks(request) for request, _ in drawn_requests(study, model)]
    cards = [free for machine in study.machines for free in machine.vram_bytes]
    largest = max(min(max(needs), 2 * max(cards)), *cards) * 21 // 20
    step = max(64 * MIB, -(-largest // _VRAM_POINTS // (64 * MIB)) * 64 * MIB)
    return sorted({*range(0, largest + step, step), *cards})


def _context_steps(model: ModelSpec) -> list[int]:
    """Powers of two and what lies halfway, up to the model's most, which is always among them."""
    steps = {model.max_context}
    size = 64
    while size < model.max_context:
        steps |= {size, min(size + size // 2, model.max_context)}
        size *= 2
    return sorted(steps)[-_CONTEXT_POINTS:]


def _slot_steps(request: PlanRequest, machine: Machine) -> list[int]:
    """One, two, and on by halves, as far as it fits and not beyond 64."""
    most = min(most_slots(request, machine).count, _LARGEST_SLOTS_SHOWN)
    steps = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, most}
    return sorted(step for step in steps if 1 <= step <= max(1, most))
