"""Errors as OpenAI's API writes them: one JSON object with message, type, param and code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from scheduler.errors import BusyError, GlmPlanError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_SHOWN = 200
_TYPE_LABEL = re.compile(r"constrained-|list\[|function-")  # what pydantic adds for unions


class ErrorDetail(BaseModel):
    """What was wrong; ``param`` names the field of the request, where one is to blame."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = ErrorResponse(
            error=ErrorDetail(message=message, type=kind, param=param, code=code)
        )

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body.model_dump(), self.status, self.headers)


def api_error_of(error: Exception) -> ApiError:
    """A refusal of the planner, the model or the engine as HTTP says it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": "1"})
    if isinstance(error, GlmPlanError):
        status = 400 if error.exit_code == 2 else 503
        return ApiError(status, str(error), code=None if status == 400 else "engine_failed")
    return ApiError(500, "the server failed while it answered; its log says why.")


def add_error_handlers(app: FastAPI) -> None:
    """Let every error of the app leave in OpenAI's shape."""

    async def on_known(_: Request, error: Exception) -> JSONResponse:
        return api_error_of(error).response()

    async def on_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _refused(error.errors()).response()

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:  # FastAPI: "There was an error parsing the body"
            return ApiError(400, "the body is not valid JSON.").response()
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    app.add_exception_handler(ApiError, on_known)
    app.add_exception_handler(GlmPlanError, on_known)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_known)


def _refused(faults: Sequence[Any]) -> ApiError:
    """The fault that pydantic found deepest, as a sentence that names the field.

    Where a field may be of several types, the deepest fault is that of the nearest one.
    """
    fault = max(faults, key=lambda one: len(one["loc"]))
    place = [str(part) for part in fault["loc"][1:] if not _TYPE_LABEL.match(str(part))]
    param = ".".join(place)[:_SHOWN] or None
    if fault["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON.")
    if fault["type"] == "extra_forbidden":
        return ApiError(400, f"unknown parameter: {param}.", param=param, code="unknown_parameter")
    if fault["type"] == "unsupported":
        return ApiError(
            400,
            f"{param} is not supported by this server; leave it out.",
            param=param,
            code="unsupported_parameter",
        )
    if fault["type"] == "missing":
        return ApiError(400, f"{param or 'the body'} is missing.", param=param)
    message = str(fault["msg"]).removeprefix("Value error, ")[:_SHOWN]
    return ApiError(400, f"{param or 'the body'}: {message[:1].lower()}{message[1:]}.", param=param)
