"""An id for every request: taken from the client or made here, logged, and returned."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.service.errors import api_error_of
from runtime.service.log_lines import current_request, fields

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_PATH = 200
_log = logging.getLogger(__name__)


class RequestLog:
    """ASGI middleware around all others: sets the id, answers what failed, logs one line each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = request_id(Headers(scope=scope).get(HEADER))
        token = current_request.set(request)
        status: int | None = None
        began = time.perf_counter()

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[HEADER] = request
                message["headers"] = headers.raw
            await send(message)

        try:
            await self._app(scope, receive, named_send)
        except Exception as error:
            _log.exception("a request failed")
            if status is not None:
                raise  # the answer has begun: only closing the connection tells
            await api_error_of(error).response()(scope, receive, named_send)
        finally:
            _log.info(
                "%s %s",
                scope["method"],
                _path(scope),
                extra=fields(status=status, seconds=round(time.perf_counter() - began, 6)),
            )
            current_request.reset(token)


def request_id(given: str | None) -> str:
    """The client's id where it is up to 64 letters, digits, dots, dashes and underscores; or one.

    Anything else could forge lines of a log or fill it.
    """
    if given is not None and _SANE.fullmatch(given):
        return given
    return secrets.token_hex(8)


def _path(scope: Scope) -> str:
    """The path as it was asked for, without the query, at most 200 characters."""
    return bytes(scope["raw_path"]).decode("ascii", "replace")[:_LONGEST_PATH]
