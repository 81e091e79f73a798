"""Study: what a report is asked about, and the settings of each model that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.device_profiles import GpuProfile
from scheduler.machine import Machine
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.request import PlanRequest, Policy


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


def drawn_requests(study: Study, model: ModelSpec) -> list[tuple[PlanRequest, Machine]]:
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
