"""Real engines over small bundles, split and batched as a test wants."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from runtime.bundle import Bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine
from runtime.launch import launches_of
from runtime.pipeline import Pipeline
from runtime.supervision import Supervision
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.request import PlanRequest

CONTEXT = 256


def start_engine(
    bundle: Bundle,
    *,
    slots: int,
    first_blocks: int = 0,
    precision: Precision = "fp32",
    context: int = CONTEXT,
    cores: int = 1,
    queue_limit: int = 256,
    supervision: Supervision | None = None,
) -> Engine:
    """An engine with one thread per stage; `first_blocks` blocks are in a stage of their own.

    With two `cores`, two stages count as busy at once.
    """
    request = PlanRequest(
        spec_of_bundle(bundle),
        vram_bytes=(1 << 33,),
        gpu_blocks=first_blocks,
        gpu_precision=precision,
        cpu_precision=precision,
        context=context,
    )
    launches = [
        replace(launch, asked_backend=launch.backend)
        for launch in launches_of(make_plan(request), bundle, frozenset({"mnn:cpu"}), {}, 1)
    ]
    return Engine(
        bundle,
        launches,
        context,
        slots=slots,
        cores=cores,
        queue_limit=queue_limit,
        start_pipeline=partial(Pipeline, supervision=supervision),
    )
