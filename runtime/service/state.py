"""What every route can reach: settings, model, memory and metrics of this server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from runtime.service.errors import ErrorResponse
from runtime.service.metrics import Metrics
from runtime.service.pressure_watch import PressureWatch
from runtime.service.served_model import ServedModel
from runtime.service.settings import ServiceSettings


@dataclass(frozen=True)
class Service:
    """One server's parts."""

    settings: ServiceSettings
    served: ServedModel
    metrics: Metrics
    pressure: PressureWatch


def service_of(request: Request) -> Service:
    """The service that this request came to; a FastAPI dependency."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI document."""
    return {status: {"model": ErrorResponse} for status in (400, 401, 403, 413, *statuses)}


def answers(chunk: str) -> dict[int | str, dict[str, Any]]:
    """What a route that can stream returns, for the OpenAPI document."""
    data = {"type": "string", "description": f"a {chunk} as JSON; [DONE] at the end"}
    events = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    streamed: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {"schema": events}}}
    }
    return {**streamed, **refusals(404, 429, 503, 504)}
