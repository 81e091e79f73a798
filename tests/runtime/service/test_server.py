"""The listening socket: small events leave at once, and a taken port is one sentence."""

from __future__ import annotations

import asyncio
import socket

import pytest

from runtime.service.server import listen
from runtime.service.settings import ServiceSettings
from scheduler.errors import UserInputError


def test_connections_do_not_wait_to_fill_packets() -> None:
    async def accepted_option() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def on_connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = listen(ServiceSettings(port=0))
        async with await asyncio.start_server(on_connect, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            option = await found
            writer.close()
            return option

    assert asyncio.run(accepted_option()) != 0


def test_a_taken_port_is_refused() -> None:
    taken = listen(ServiceSettings(port=0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(UserInputError, match=f"127.0.0.1:{port} cannot be listened at"):
        listen(ServiceSettings(port=port))
    taken.close()
