"""A whole bench: every case on one engine, memory bandwidth before and after, memory at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone

import psutil

from runtime.bench.document import Bench
from runtime.bench.measure import Question, figure, measure_case
from runtime.calibrate.rig import read_ram
from runtime.engine import Engine
from scheduler.cost import device_kind
from scheduler.hardware import Cpu
from scheduler.memory import held_block_bytes, held_lm_head_bytes
from scheduler.model import ModelSpec, block_kv_bytes_per_token
from scheduler.plan import Plan
from scheduler.slots import kv_capacity

_RAM_BYTES = 256 << 20
_RAM_SAMPLES = 3


def run_bench(
    engine: Engine,
    plan: Plan,
    spec: ModelSpec,
    cpu: Cpu,
    questions: Sequence[Question],
    runs: int,
    load_seconds: float,
    on_case: Callable[[Question], None] = lambda _: None,
) -> Bench:
    """Measure every question on a loaded engine; raises what `measure_case` raises."""
    threads = cpu.usable_cores
    bandwidth = [read_ram(threads, _RAM_BYTES) / 1e9 for _ in range(_RAM_SAMPLES)]
    cases = []
    for question in questions:
        on_case(question)
        read = step_bytes(plan, spec, question)
        cases.append(measure_case(engine, spec.vocab_size, question, runs, read))
    bandwidth += [read_ram(threads, _RAM_BYTES) / 1e9 for _ in range(_RAM_SAMPLES)]
    rss = {"driver": psutil.Process().memory_info().rss}
    for launch, pid in zip(engine.pipeline.launches, engine.pipeline.process_ids, strict=True):
        name = f"{launch.device}, blocks {launch.block_span}"
        rss[name] = psutil.Process(pid).memory_info().rss
    return Bench(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=plan.model,
        processor=cpu.model_name,
        threads=threads,
        slots=engine.slots,
        context_tokens=engine.context_tokens,
        load_seconds=load_seconds,
        ram_gbps=figure(bandwidth),
        rss_bytes=rss,
        cases=cases,
    )


def step_bytes(plan: Plan, spec: ModelSpec, question: Question) -> int:
    """Bytes of weights, and of keys and values at fp32, that a decode step has to read.

    Weights once for all requests. Estimated: stages as `scheduler.memory` counts them on a CPU.
    """
    tokens = kv_capacity(question.prompt_tokens + question.output_tokens)
    cache = tokens * question.requests * block_kv_bytes_per_token(spec, 4)
    total = 0
    for stage in plan.stages:
        kind = device_kind("cpu", stage.backend)
        total += len(stage.blocks) * (held_block_bytes(spec, stage.precision, kind) + cache)
        if stage.lm_head_precision is not None:
            total += held_lm_head_bytes(spec, stage.lm_head_precision, kind)
    return total
