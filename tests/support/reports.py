"""Reports for tests: small studies of shipped models on machines that are not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.estimates import estimated_speeds
from scheduler.hardware import Cpu, Gpu, Host
from scheduler.machine import Machine
from scheduler.model import ModelSpec
from scheduler.profiles import load_gpus, load_model
from scheduler.report.study import Study
from scheduler.request import Policy
from scheduler.units import GIB

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;|`*[x](javascript:1)\n=1+1"


def machine(name: str, *free_gib: float, ram_gib: float = 32) -> Machine:
    """A machine with cards of so much free memory, all called `name`."""
    gpus = tuple(
        Gpu(f"gpu{number}", name, None, int(free * GIB), bandwidth_gbps=448)
        for number, free in enumerate(free_gib)
    )
    ram_bytes = int(ram_gib * GIB)
    host = Host(Cpu("a CPU", 8, 8, ram_bytes, ram_bytes), gpus, ("The host is made up.",))
    return Machine(name, host, estimated_speeds(host))


def study(
    models: Sequence[ModelSpec] | None = None,
    machines: Sequence[Machine] | None = None,
    contexts: Sequence[int | None] = (None,),
    slots: Sequence[int] = (1,),
    policy: Policy = "fit",
    target_tps: float | None = 5.0,
) -> Study:
    """ChatGLM-6B on two cards and none at two precisions, or what is given instead."""
    return Study(
        models=models or [load_model("chatglm-6b")],
        machines=machines
        or [machine("small card", 6), machine("two cards", 11, 11), machine("no card")],
        catalogue=load_gpus(),
        precisions=[("fp16", "fp32"), ("int4", "int4")],
        contexts=contexts,
        slots=slots,
        policy=policy,
        target_tps=target_tps,
        command="glm-plan report --gpu 'a card'",
        version="0.0",
        date="2026-01-01",
    )


def hostile_study() -> Study:
    """Names that would break out of HTML, SVG, Markdown and spreadsheets."""
    model = replace(load_model("tiny-glm"), name=HOSTILE)
    card = machine(HOSTILE + " card", 8, 8)
    plain = study([model, load_model("tiny-glm")], [card, machine("plain", 8)])
    return replace(plain, command=f"glm-plan report --model {HOSTILE}", version=HOSTILE)
