"""A server from its socket to its end: listen, say so, load, answer, drain."""

from __future__ import annotations

import signal
import socket
from types import FrameType

import uvicorn

from runtime.service.app import create_app
from runtime.service.log_lines import announce
from runtime.service.served_model import ServedModel
from runtime.service.settings import ServiceSettings
from scheduler.errors import UserInputError


def serve(served: ServedModel, settings: ServiceSettings) -> None:
    """Answer until SIGINT or SIGTERM, then finish what runs within `drain_seconds`.

    A second SIGINT ends everything at once. Raises UserInputError when the address cannot be had,
    the model's own error when it does not load, and KeyboardInterrupt after a SIGINT.
    """
    listening = listen(settings)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    not_loaded = False

    def on_loaded() -> None:
        nonlocal not_loaded
        if served.state in ("ready", "degraded"):
            for text in served.moved:
                announce(text)
            announce(f"{served.plan.model} is ready at {url}")
        else:
            not_loaded = not server.should_exit
            server.should_exit = True

    app = create_app(served, settings, on_loaded)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # see RequestLog
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_seconds),
        timeout_keep_alive=30,
        lifespan="on",
        ws="none",
    )
    server = uvicorn.Server(config)
    announce(f"listening at {url}, loading {served.plan.model}")
    # uvicorn sends itself the signals again after its end; a drained server ends in peace.
    interrupted = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    handlers = {signal.SIGTERM: lambda _number, _frame: None, signal.SIGINT: on_interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
        served.close(at_once=server.force_exit)
    if not_loaded and served.fault is not None:
        raise served.fault
    if interrupted:
        raise KeyboardInterrupt


def listen(settings: ServiceSettings) -> socket.socket:
    """A socket bound to the settings' address; raises UserInputError when it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns off Nagle's algorithm, which delays small writes by 40 ms, for sockets that say
    # that they are TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserInputError(
            f"{settings.host}:{settings.port} cannot be listened at: {reason}; choose another"
            " --host or --port."
        ) from None
    return listening
