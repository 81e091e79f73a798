"""The application: routes, guard, page, and the model that loads behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from runtime.service import about, chat, completions, planner
from runtime.service.errors import add_error_handlers
from runtime.service.guard import Guard
from runtime.service.metrics import Metrics
from runtime.service.page_files import PageFiles
from runtime.service.pressure_watch import PressureWatch
from runtime.service.request_log import HEADER, RequestLog
from runtime.service.served_model import ServedModel
from runtime.service.settings import ServiceSettings
from runtime.service.state import Service

_log = logging.getLogger(__name__)
_OPEN = {"/health"}


def create_app(
    served: ServedModel, settings: ServiceSettings, on_loaded: Callable[[], None]
) -> FastAPI:
    """The ASGI application; the model loads once it starts, then `on_loaded` is called.

    Closing the application ends the workers.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def load() -> None:
            served.lasting.start()
            await asyncio.wrap_future(served.lasting.loaded)
            on_loaded()

        loading = asyncio.create_task(load())
        watching = asyncio.create_task(pressure.run())
        hurried = False
        try:
            yield
        except asyncio.CancelledError:  # the server does not wait for its own end
            hurried = True
        watching.cancel()
        await asyncio.to_thread(served.close, at_once=hurried)
        await loading

    app = FastAPI(
        title="glm-plan",
        version="1",
        description="An OpenAI-compatible API around a model that is split over devices.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics()
    pressure = PressureWatch(served, settings.back_off)
    app.state.service = Service(settings, served, metrics, pressure)
    routers = (chat.router, completions.router, about.router, planner.router)
    for router in routers:
        app.include_router(router)
    paths = [route.path for one in routers for route in one.routes if isinstance(route, APIRoute)]
    protected = frozenset(path for path in paths if path not in _OPEN) | {"/openapi.json"}
    app.router.default = PageFiles()  # not a mount, which would hide 405 of the routes before it
    add_error_handlers(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    app.add_middleware(Guard, settings=settings, metrics=metrics, protected=lambda: protected)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", HEADER],
            expose_headers=[HEADER],
        )
    app.add_middleware(RequestLog)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with this server's key and without its 422, which is 400."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        document.setdefault("components", {})["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"}
        }
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if path not in _OPEN:
                    operation["security"] = [{"key": []}, {}]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
