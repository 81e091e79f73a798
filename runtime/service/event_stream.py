"""Server-sent events, and answers that end when nobody listens any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from runtime.service.errors import ApiError

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_Result = TypeVar("_Result")


def event(document: BaseModel) -> bytes:
    """One event; fields that are None are left out, but for finish_reason, as OpenAI does."""
    content = document.model_dump(exclude_none=True)
    for choice in content.get("choices", ()):
        choice.setdefault("finish_reason", None)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


class EventStream(Response):
    """Sends events as they come; `on_end` is called when all are sent or the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _unless_gone(receive, self._send_all(send))
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                last = {"type": "http.response.body", "body": event(_ending().body)}
                await send(last)
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for content in self._events:
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(
    request: Request, work: Coroutine[Any, Any, _Result], on_end: Callable[[], None]
) -> _Result | None:
    """The result of `work`, or None when the client left before; `on_end` is called either way.

    Raises ApiError 503 where the server ends first.
    """
    try:
        return await _unless_gone(request.receive, work)
    except asyncio.CancelledError:
        raise _ending() from None
    finally:
        on_end()


def _ending() -> ApiError:
    return ApiError(503, "the server is ending.", code="shutting_down")


async def _unless_gone(
    receive: Callable[[], Awaitable[Any]], work: Coroutine[Any, Any, _Result]
) -> _Result | None:
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return None
    finally:
        leaving.cancel()
        working.cancel()
        with contextlib.suppress(BaseException):
            await working


async def _disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
