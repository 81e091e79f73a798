"""Wires: authenticated TCP connections that carry whole messages between processes of a cluster.

Plain calls between Ray actors cost milliseconds; a wire costs what TCP costs. Both ends prove that
they know a secret which travelled through Ray; what follows is neither encrypted nor signed, like
Ray's own traffic, and belongs on a network that is trusted.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

SECRET_BYTES = 32
SILENT_SECONDS = 6
"""An end that does not acknowledge for this long counts as lost, as does one that is cut off."""

_LENGTH = struct.Struct("<I")
_NONCE_BYTES = 32
_HANDSHAKE_SECONDS = 5.0
_CONNECT_SECONDS = 60.0
_PIECE_BYTES = 1 << 16


class Wire:
    """One end of a connection; messages arrive whole, in order, and are at most `most_bytes` long.

    Raises EOFError where the other end has closed, ConnectionResetError where it is lost.
    """

    def __init__(self, connected: socket.socket, most_bytes: int) -> None:
        self.socket = connected  # for those who wait for several
        self._most_bytes = most_bytes
        self.received_messages = self.received_bytes = self.sent_bytes = 0
        connected.settimeout(None)
        _tune(connected)

    def send(self, data: bytes | bytearray, while_full: Callable[[], None] | None = None) -> None:
        """Send one message.

        `while_full` is called whenever the other end has to read first, and shall wait for that or
        for something to receive: two ends that only send to each other would wait for ever.
        """
        self.sent_bytes += len(data)
        try:
            if while_full is None:
                self.socket.sendall(_LENGTH.pack(len(data)) + data)
                return
            rest = memoryview(_LENGTH.pack(len(data)) + data)
            while rest:
                if not select.select([], [self.socket], [], 0)[1]:
                    while_full()
                    continue
                rest = rest[self.socket.send(rest[:_PIECE_BYTES], _DONT_WAIT) :]
        except BlockingIOError:
            raise AssertionError("a writable socket takes at least one byte") from None
        except (OSError, ValueError) as error:
            raise ConnectionResetError(f"the connection is lost ({error})") from None

    def receive(self) -> bytes:
        """The next message."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > self._most_bytes:
            raise ConnectionResetError(
                f"the other end announced {length} bytes where {self._most_bytes} are the most"
            )
        self.received_messages += 1
        self.received_bytes += length
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        received = bytearray(length)
        view, have = memoryview(received), 0
        try:
            while have < length:
                count = self.socket.recv_into(view[have:])
                if not count:
                    raise EOFError("the other end has closed the connection")
                have += count
        except (OSError, ValueError) as error:
            raise ConnectionResetError(f"the connection is lost ({error})") from None
        return bytes(received)

    def poll(self) -> bool:
        """Whether a message waits, or the end of the connection."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def close(self) -> None:
        """End the connection; the other end hears of it at once."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class WireListener:
    """Waits at a port of the system's choice for ends that know `secret`."""

    def __init__(self, address: str, secret: bytes) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self._secret = secret

    @property
    def port(self) -> int:
        """The port that others connect to."""
        port: int = self._socket.getsockname()[1]
        return port

    def accept(self, most_bytes: int, within_seconds: float) -> tuple[str, Wire]:
        """The next connection that knows the secret, and the name it gave itself.

        Others are turned away. Raises TimeoutError.
        """
        until = time.monotonic() + within_seconds
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            connected, _ = self._socket.accept()
            connected.settimeout(min(left, _HANDSHAKE_SECONDS))
            try:
                name = _handshake(connected, self._secret, b"listener", b"").decode()
                return name, Wire(connected, most_bytes)
            except (OSError, ValueError, EOFError):
                connected.close()
        raise TimeoutError

    def close(self) -> None:
        """Stop listening; connections stay."""
        self._socket.close()


def connect(address: str, port: int, secret: bytes, name: str, most_bytes: int) -> Wire:
    """Connect to a listener as `name`; OSError or EOFError where that fails."""
    connected = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
    try:
        _handshake(connected, secret, b"caller", name.encode())
    except BaseException:
        connected.close()
        raise
    return Wire(connected, most_bytes)


def _handshake(connected: socket.socket, secret: bytes, role: bytes, name: bytes) -> bytes:
    """Prove to know the secret and have it proved; the name that the other end gave itself.

    Each end sends a nonce and its name, then an HMAC over everything, keyed by the secret, in which
    the roles differ, so that nothing can be sent back to where it came from.
    """
    mine = secrets.token_bytes(_NONCE_BYTES) + name[:255].ljust(255, b"\0")
    connected.sendall(mine)
    theirs = _read(connected, len(mine))
    other = b"caller" if role == b"listener" else b"listener"
    connected.sendall(hmac.digest(secret, role + mine + theirs, "sha256"))
    proof = _read(connected, 32)
    if not hmac.compare_digest(proof, hmac.digest(secret, other + theirs + mine, "sha256")):
        raise ConnectionRefusedError("the other end does not know the secret of this cluster run")
    return theirs[_NONCE_BYTES:].rstrip(b"\0")


def _read(connected: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        piece = connected.recv(length - len(received))
        if not piece:
            raise EOFError("the other end has closed the connection")
        received += piece
    return received


def _tune(connected: socket.socket) -> None:
    """No waiting for more to send, and no waiting for ever for an end that is cut off."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": SILENT_SECONDS - 1}
    if sys.platform.startswith("linux"):
        options["TCP_USER_TIMEOUT"] = 1000 * SILENT_SECONDS
    for option, value in options.items():
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
