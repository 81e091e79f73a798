"""Build a report from a study: which cells, plans, curves and answers it shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scheduler.capacity import Cell, judge, sweep
from scheduler.device_profiles import GpuProfile
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
from scheduler.machine import Machine, least_certain
from scheduler.model import ModelSpec, embedding_bytes, kv_bytes_per_token, total_parameters
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.report.document import (
    Answers,
    Axis,
    Curve,
    GpuFacts,
    MachineFacts,
    ModelFacts,
    More,
    PlanOf,
    Point,
    Report,
    Setting,
)
from scheduler.report.sources import ASSUMPTIONS, machine_notes, memory_provenance, sources_of
from scheduler.request import PlanRequest, Policy
from scheduler.units import MIB

LARGEST_SWEEP = 100_000
"""Cells beyond which a report is refused; 10,000 take about two seconds."""
LINES_PER_CHART = 6
"""Settings of a model that get curves: as many as colours that everyone can tell apart."""
PLANS_PER_MODEL = 8
ANSWERS_PER_MODEL = 60

_VRAM_POINTS = 64
_CONTEXT_POINTS = 33
_LARGEST_SLOTS_SHOWN = 64


@dataclass(frozen=True)
class Study:
    """What a report is asked about; precisions are pairs of GPU and CPU, None the usual context."""

    models: Sequence[ModelSpec]
    machines: Sequence[Machine]
    catalogue: Sequence[GpuProfile]
    precisions: Sequence[tuple[Precision, Precision]]
    contexts: Sequence[int | None]
    slots: Sequence[int]
    policy: Policy
    target_tps: float | None
    command: str
    version: str
    date: str


def build_report(study: Study) -> Report:
    """Answer a study. Raises UserInputError where it asks for more than 100,000 cells."""
    cells = list(study_cells(study))
    return Report(
        version=study.version,
        date=study.date,
        command=study.command,
        policy=study.policy,
        target_tokens_per_second=study.target_tps,
        models=[_model_facts(model) for model in study.models],
        machines=[_machine_facts(machine) for machine in study.machines],
        cells=cells,
        plans=list(_plans(study)),
        curves=list(_curves(study)),
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


def _requests(study: Study, model: ModelSpec) -> list[tuple[PlanRequest, Machine]]:
    """The settings of a model to draw: the first context and slots, every precision and machine.

    Ordered so that the first few are the most telling: every machine at the first precision.
    """
    context = study.contexts[0]
    if context is not None:
        context = min(context, model.max_context)
    return [
        (
            PlanRequest(
                model,
                gpu_precision=gpu,
                cpu_precision=cpu,
                context=context,
                slots=study.slots[0],
                policy=study.policy,
            ),
            machine,
        )
        for gpu, cpu in study.precisions
        for machine in study.machines
    ]


def _plans(study: Study) -> Iterable[PlanOf]:
    for model in study.models:
        for request, machine in _requests(study, model)[:PLANS_PER_MODEL]:
            try:
                plan = make_plan(request, machine.host, machine.speeds)
            except PlanError:
                continue  # the verdict has the numbers
            yield PlanOf(setting=_setting(request, machine), plan=plan)


def _curves(study: Study) -> Iterable[Curve]:
    for model in study.models:
        for request, machine in _requests(study, model)[:LINES_PER_CHART]:
            setting = _setting(request, machine)
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
    needs = [vram_for_all_blocks(request) for request, _ in _requests(study, model)]
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


def cheapest_cards(study: Study) -> Iterable[tuple[PlanRequest, Buy | None, Cell]]:
    """For each model and precision the cheapest card that reaches the target, and no GPU at all.

    Nothing where the study has no target.
    """
    for model in study.models if study.target_tps is not None else ():
        for request, machine in _requests(study, model)[:: len(study.machines)]:
            buy = cheapest_gpu(request, machine, study.catalogue, study.target_tps or 0)
            yield request, buy, judge(request, machine.without_gpus())


def _answers(study: Study) -> Iterable[Answers]:
    cheapest = {request: buy for request, buy, _ in cheapest_cards(study)}
    for model in study.models:
        for request, machine in _requests(study, model)[:ANSWERS_PER_MODEL]:
            bigger = [(more, with_more_vram(request, machine, more)) for more in MORE_VRAM_BYTES]
            yield Answers(
                setting=_setting(request, machine),
                now=judge(request, machine),
                largest_context=largest_context(request, machine),
                most_slots=most_slots(request, machine),
                vram_for_all_blocks_bytes=vram_for_all_blocks(request),
                vram_with_lm_head_bytes=vram_for_all_blocks(request, with_lm_head=True),
                without_gpu=judge(request, machine.without_gpus()),
                cheapest=cheapest.get(request),
                more_vram=[More(more_bytes=more, cell=cell) for more, cell in bigger if cell],
            )


def _setting(request: PlanRequest, machine: Machine) -> Setting:
    return Setting(
        model=request.model.name,
        machine=machine.name,
        gpu_precision=request.gpu_precision,
        cpu_precision=request.cpu_precision,
        context_tokens=request.context_tokens,
        slots=request.slots,
    )


def _model_facts(model: ModelSpec) -> ModelFacts:
    return ModelFacts(
        name=model.name,
        parameters=total_parameters(model),
        blocks=model.blocks,
        max_context=model.max_context,
        kv_bytes_per_token=kv_bytes_per_token(model),
        embedding_bytes=embedding_bytes(model),
    )


def _machine_facts(machine: Machine) -> MachineFacts:
    cpu = machine.speeds.devices["cpu"]
    return MachineFacts(
        name=machine.name,
        gpus=[
            GpuFacts(
                name=gpu.model_name,
                free_bytes=gpu.free_bytes,
                free_provenance=memory_provenance(machine, gpu.name),
                bandwidth_bytes_per_second=speed.bandwidth_bytes_per_second,
                speed_provenance=speed.provenance,
                speed_source=speed.source,
            )
            for gpu in machine.host.gpus
            for speed in (machine.speeds.devices[gpu.name],)
        ],
        cpu=machine.host.cpu.model_name,
        cpu_bandwidth_bytes_per_second=cpu.bandwidth_bytes_per_second,
        cpu_speed_provenance=cpu.provenance,
        cpu_speed_source=cpu.source,
        ram_available_bytes=machine.ram_bytes,
        ram_total_bytes=machine.ram_total_bytes,
        ram_provenance=memory_provenance(machine, "cpu"),
    )
