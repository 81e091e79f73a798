"""What stands before every route: keys, foreign hosts, body sizes, security headers, counting."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.service.errors import ApiError
from runtime.service.metrics import Metrics
from runtime.service.settings import ServiceSettings

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_DROPPED = 16  # times the limit that is still read before the connection is closed
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """ASGI middleware. `protected` are the paths that need a key where the server has keys."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        metrics: Metrics,
        protected: Callable[[], Iterable[str]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._protected = protected
        self._keys = [_digest(key) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])
        known = path if path in self._protected() or path in ("/", "/health") else "other"

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                message["headers"] = headers.raw
                self._metrics.requests.labels(known, str(message["status"])).inc()
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(path, headers, str(scope["method"]))
            body = await self._body(headers, receive)
        except ApiError as refusal:
            await refusal.response()(scope, receive, guarded_send)
            return
        await self._app(scope, _replayed(body, receive), guarded_send)

    def _check_host(self, headers: Headers) -> None:
        """On loopback without keys, a page elsewhere must not reach us by renaming its server."""
        if self._settings.api_keys or not self._settings.on_loopback:
            return
        name = headers.get("host", "")
        name = name if name.endswith("]") else name.rpartition(":")[0] or name
        if name.lower() not in _LOCAL_NAMES | {self._settings.host}:
            raise ApiError(403, "this server answers to localhost only.", code="foreign_host")

    def _check_key(self, path: str, headers: Headers, method: str) -> None:
        if not self._keys or method == "OPTIONS":
            return
        if not (path.startswith("/v1/") or path in self._protected()):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip()) if scheme.lower() == "bearer" else b""
        # Every key is compared, so that time tells nothing about which one matched.
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            raise ApiError(
                401,
                "a key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, within the limit; more is read and dropped, within reason, since a
        client that is cut off while it sends may never read why."""
        most = self._settings.max_body_bytes
        stated = headers.get("content-length", "0")
        parts: list[bytes] = []
        size, more = 0, not stated.isdigit() or int(stated) <= _DROPPED * most
        while more and size <= _DROPPED * most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""  # nobody will read the answer
            part = message.get("body", b"")
            size += len(part)
            if size <= most:
                parts.append(part)
            more = message.get("more_body", False)
        if more or size > most or (stated.isdigit() and int(stated) > most):
            raise ApiError(
                413,
                f"the body is larger than the {most} bytes that this server takes.",
                code="body_too_large",
                headers={"Connection": "close"},
            )
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body once, then what the connection says: that the client left."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _digest(key: str) -> bytes:
    """Keys are compared by digest, so that their lengths tell nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
