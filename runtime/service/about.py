"""What the server is and does now: models, health, status, plan, metrics, tokens of a text."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from runtime.service.documents import (
    Content,
    DetokenizeRequest,
    Health,
    LoadedMemory,
    Model,
    ModelList,
    PlanInForce,
    Pressure,
    StageStatus,
    Status,
    StepSeconds,
    TokenizeRequest,
    Tokens,
)
from runtime.service.questions import check_ids, check_model
from runtime.service.state import Service, refusals, service_of
from scheduler.pressure import over_plan

router = APIRouter()
_Service = Annotated[Service, Depends(service_of)]


@router.get("/v1/models", responses=refusals(), tags=["model"])
async def models(service: _Service) -> ModelList:
    """List the model."""
    return ModelList(data=[_model(service)])


@router.get("/v1/models/{model:path}", responses=refusals(404), tags=["model"])
async def model(model: Annotated[str, Path(max_length=200)], service: _Service) -> Model:
    """Describe the model."""
    check_model(service.served, model)
    return _model(service)


@router.post("/tokenize", responses=refusals(404), tags=["model"])
async def tokenize(request: TokenizeRequest, service: _Service) -> Tokens:
    """Turn a text into token ids."""
    check_model(service.served, request.model)
    tokenizer = service.served.chat_format.tokenizer
    return Tokens(tokens=await asyncio.to_thread(tokenizer.encode, request.content))


@router.post("/detokenize", responses=refusals(404), tags=["model"])
async def detokenize(request: DetokenizeRequest, service: _Service) -> Content:
    """Turn token ids into text."""
    check_model(service.served, request.model)
    check_ids(service.served, request.tokens, "tokens")
    codec = service.served.chat_format.tokenizer
    content = b"".join(map(codec.token_bytes, request.tokens))
    return Content(content=content.decode("utf-8", "replace"))


@router.get("/health", responses={503: {"model": Health}, **refusals()}, tags=["server"])
async def health(service: _Service, response: Response) -> Health:
    """Tell whether answers can be had now; 503 while loading, restarting and when all failed."""
    if service.served.state not in ("ready", "degraded"):
        response.status_code = 503
    response.headers["Cache-Control"] = "no-store"
    return _health(service)


@router.get("/status", responses=refusals(), tags=["server"])
async def status(service: _Service) -> Status:
    """Slots, queue and stages, now."""
    served = service.served
    return Status(
        model=served.plan.model,
        health=_health(service),
        context_tokens=served.context_tokens,
        slots=served.slots,
        slots_busy=served.admission.busy,
        slots_usable=served.admission.usable,
        queue_limit=served.admission.queue,
        queue_waiting=served.admission.waiting,
        stages=_stages(service),
        last_step=_last_step(service),
    )


@router.get("/plan", responses=refusals(), tags=["plan"])
async def plan(service: _Service) -> PlanInForce:
    """The plan in force, planned against actual."""
    served = service.served
    return PlanInForce(
        plan=served.plan,
        stages=_stages(service),
        memory=_loaded_memory(service),
        degraded=served.degraded,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals()},
    tags=["server"],
)
async def metrics(service: _Service) -> Response:
    """Metrics for Prometheus."""
    text = service.metrics.text(service.served)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(service: Service) -> Model:
    served = service.served
    return Model(
        id=served.plan.model,
        created=served.created,
        context_tokens=served.context_tokens,
        slots=served.slots,
    )


def _health(service: Service) -> Health:
    served = service.served
    return Health(
        status=served.state,
        loaded_parts=served.loaded_parts,
        all_parts=served.all_parts,
        fault=str(served.fault) if served.fault else None,
        degraded=served.degraded,
        pressure=_pressure(service),
    )


def _pressure(service: Service) -> Pressure | None:
    found = service.pressure.found
    if found.reason is None:
        return None
    return Pressure(
        usable_slots=found.usable_slots,
        slots=service.served.slots,
        reason=found.reason,
        applied=service.settings.back_off != "off",
    )


def _loaded_memory(service: Service) -> list[LoadedMemory]:
    loaded = service.pressure.loaded
    return [
        LoadedMemory(
            device=need.device,
            planned_bytes=need.all_slots_bytes,
            loaded_bytes=loaded[need.device],
            deviation=over_plan(need, loaded[need.device]),
        )
        for need in service.pressure.needs
        if need.device in loaded
    ]


def _last_step(service: Service) -> StepSeconds | None:
    served = service.served
    step = served.last_step
    if step is None:
        return None
    measured = dict(zip((one.device for one in served.launches), step.stage_seconds, strict=False))
    return StepSeconds(
        stages=[measured.get(stage.device, 0.0) for stage, _, _ in served.running()],
        lm_head=step.lm_head_seconds,
        hops=step.hop_seconds,
        total=step.total_seconds,
    )


def _stages(service: Service) -> list[StageStatus]:
    return [
        StageStatus(
            device=stage.device,
            backend=launch.backend,
            asked_backend=launch.asked_backend,
            blocks=launch.block_span,
            first_block=stage.first_block,
            last_block=stage.last_block,
            lm_head=stage.lm_head,
            planned_bytes=stage.memory.total_bytes + stage.host_bytes,
            actual_bytes=rss_bytes,
        )
        for stage, launch, rss_bytes in service.served.running()
    ]
