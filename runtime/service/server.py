"""A server from its socket to its end: listen, say so, load, answer, drain."""

from __future__ import annotations

import signal
import socket

import uvicorn

from runtime.service.app import create_app
from runtime.service.log_lines import announce
from runtime.service.served_model import ServedModel
from runtime.service.settings import ServiceSettings
from scheduler.errors import UserInputError


def serve(served: ServedModel, settings: ServiceSettings) -> None:
    """Answer until SIGINT or SIGTERM, then finish what runs within `drain_seconds`.

    Raises UserInputError when the address cannot be had, and the model's own error when it does not
    load.
    """
    listening = listen(settings)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def on_loaded() -> None:
        if served.state == "ready":
            announce(f"{served.plan.model} is ready at {url}")
        else:
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
    # uvicorn sends itself the signal again after its end; a drained server ends in peace.
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    try:
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()
        fault = served.fault if served.loaded_parts < served.all_parts else None
        served.close()
    if fault is not None:
        raise fault


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
