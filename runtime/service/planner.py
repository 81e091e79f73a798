"""/plan/what-if and /report: the planner and its capacity report, asked over HTTP."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from runtime.service.state import Service, refusals, service_of
from scheduler.plan import Plan, Precision

router = APIRouter(tags=["plan"])
# Both are work for the processor that models run on: one of each at a time.
_planning = asyncio.Lock()
_reporting = asyncio.Lock()

Name = Annotated[str, Field(min_length=1, max_length=200)]
Size = Annotated[str, Field(min_length=1, max_length=40, examples=["11", "11.5", "11000MiB"])]
Names = Annotated[list[Name], Field(max_length=8)]
Sizes = Annotated[list[Size], Field(max_length=8)]

# The report brings a policy of its own; this one keeps it from everything else of this server.
_REPORT_POLICY = (
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none';"
    " sandbox allow-scripts allow-downloads allow-popups"
)


class WhatIf(BaseModel):
    """The options of `glm-plan plan`, by the same names; what is left out is measured or default.

    Without `model`, the question is about the model that this server has.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Name | None = None
    vram: Sizes = []
    gpu: Names = []
    cpu: Name | None = None
    ram: Annotated[list[Name], Field(max_length=2)] = []
    host: Name | None = None
    precision: Precision | None = None
    gpu_precision: Precision | None = None
    cpu_precision: Precision | None = None
    reserve: Size | None = None
    max_vram: Size | None = None
    gpu_blocks: int | None = Field(default=None, ge=0, le=1 << 16)
    context: int | None = Field(default=None, ge=1, le=1 << 31)
    slots: int | None = Field(default=None, ge=1, le=1 << 16)
    policy: Literal["reserve", "fit"] = "reserve"
    objective: Literal["latency", "throughput"] = "latency"
    gpu_backend: Name | None = None
    cpu_backend: Name | None = None


@router.post("/plan/what-if", responses=refusals())
async def what_if(question: WhatIf, service: Annotated[Service, Depends(service_of)]) -> Plan:
    """Plan, and change nothing: where blocks would live, how much memory, how fast."""
    async with _planning:
        return await asyncio.to_thread(_plan, question, service)


class ModelChoice(BaseModel):
    """A model that can be planned by name."""

    name: str
    blocks: int
    max_context: int


class GpuChoice(BaseModel):
    """A graphics card that can be planned by name."""

    name: str
    memory_bytes: int


class Choices(BaseModel):
    """What the planner knows by name: profiles, and the model that this server has."""

    models: list[ModelChoice]
    gpus: list[GpuChoice]


@router.get("/plan/choices", responses=refusals())
async def choices(service: Annotated[Service, Depends(service_of)]) -> Choices:
    """Models and graphics cards to ask /plan/what-if about, the served model first."""
    return await asyncio.to_thread(_choices, service)


@router.get(
    "/report",
    response_class=Response,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}, **refusals()},
)
async def report(service: Annotated[Service, Depends(service_of)]) -> HTMLResponse:
    """The capacity report of this model on this machine, as a page."""
    async with _reporting:
        text = await asyncio.to_thread(_report, service)
    return HTMLResponse(text, headers={"Content-Security-Policy": _REPORT_POLICY})


def _choices(service: Service) -> Choices:
    from runtime.bundle_spec import spec_of_bundle
    from scheduler.profiles import load_gpus, load_models

    served = spec_of_bundle(service.served.bundle)
    specs = [served, *(spec for spec in load_models() if spec.name != served.name)]
    return Choices(
        models=[
            ModelChoice(name=one.name, blocks=one.blocks, max_context=one.max_context)
            for one in specs
        ],
        gpus=[GpuChoice(name=one.name, memory_bytes=one.memory_bytes) for one in load_gpus()],
    )


def _plan(question: WhatIf, service: Service) -> Plan:
    from runtime.bundle_spec import spec_of_bundle
    from runtime.on_disk import spec_by_name
    from scheduler.planning import read_planning

    served = service.served
    if question.model in (None, served.plan.model):
        spec = spec_of_bundle(served.bundle)
    else:
        spec = spec_by_name(str(question.model))
    planning = read_planning(
        spec.name,
        vram=question.vram,
        gpus=question.gpu,
        cpu=question.cpu,
        rams=question.ram,
        host_name=question.host,
        precision=question.precision,
        gpu_precision=question.gpu_precision,
        cpu_precision=question.cpu_precision,
        reserve=question.reserve,
        max_vram=question.max_vram,
        gpu_blocks=question.gpu_blocks,
        context=question.context,
        slots=question.slots,
        policy=question.policy,
        objective=question.objective,
        gpu_backend=question.gpu_backend,
        cpu_backend=question.cpu_backend,
    )
    return planning.plan(spec)


def _report(service: Service) -> str:
    from runtime.report_study import Asked
    from scheduler.report.build import build_report
    from scheduler.report.page import report_html

    plan = service.served.plan
    asked = Asked(
        models=(plan.model,),
        gpus=(),
        vram=(),
        cpu=None,
        rams=(),
        precisions=("fp16/fp32", "int4"),
        contexts=(plan.context_tokens,),
        slots=(plan.slots,),
        policy="fit",
        target_tps=None,
    )
    return report_html(build_report(asked.study([])))
