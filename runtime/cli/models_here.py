"""Whether a model runs on this machine now, and how fast: the planner's answer for each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from scheduler.cost import Speeds
from scheduler.errors import PlanError
from scheduler.hardware import Host
from scheduler.model import ModelSpec
from scheduler.plan import Precision, Provenance
from scheduler.planner import make_plan
from scheduler.request import RUNNABLE_FAMILIES, PlanRequest


@dataclass(frozen=True)
class Here:
    """What `--policy fit` finds for this machine's free memory, or the sentence why nothing fits.

    `precision` is that of GPU and CPU side, each once; `decode_tokens_per_second` holds at
    `context_tokens`.
    """

    runnable: bool
    fits: bool
    sentence: str | None = None
    decode_tokens_per_second: float | None = None
    precision: tuple[Precision, ...] = ()
    gpu_blocks: int | None = None
    context_tokens: int | None = None
    provenance: Provenance | None = None


def runs_here(
    spec: ModelSpec, stored: Collection[Precision], host: Host, speeds: Speeds | None
) -> Here:
    """Place a model as `--policy fit` does, at the precisions that are `stored`, or at any."""
    runnable = spec.family in RUNNABLE_FAMILIES
    request = PlanRequest(
        spec,
        policy="fit",
        open_choices=frozenset({"gpu_precision", "cpu_precision", "context"}),
        stored=frozenset(stored) or None,
    )
    try:
        plan = make_plan(request, host, speeds)
    except PlanError as error:
        return Here(runnable, fits=False, sentence=str(error))
    assert plan.speed is not None
    return Here(
        runnable,
        fits=True,
        decode_tokens_per_second=plan.speed.decode_tokens_per_second,
        precision=tuple(dict.fromkeys(stage.precision for stage in plan.stages)),
        gpu_blocks=plan.gpu_blocks,
        context_tokens=plan.context_tokens,
        provenance=plan.speed.provenance,
    )
