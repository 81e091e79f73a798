"""Wires between real sockets: whole messages, strangers turned away, two full ends."""

from __future__ import annotations

import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.cluster.wire import Wire, WireListener, connect

SECRET = b"s" * 32
MOST = 64 << 20


def pair(secret: bytes = SECRET, most: int = MOST) -> tuple[Wire, Wire]:
    listener = WireListener("127.0.0.1", SECRET)
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept, most, 30.0)
        calling = connect("127.0.0.1", listener.port, secret, "caller é", most)
        name, answering = accepted.result()
    listener.close()
    assert name == "caller é"
    return calling, answering


@pytest.mark.parametrize("size", [0, 1, 17, 4096, 1 << 16, (5 << 20) + 3])
def test_messages_arrive_whole_and_in_order(size: int) -> None:
    ours, theirs = pair()
    first, second = bytes(range(256)) * (size // 256) + b"x" * (size % 256), b"after it"
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(lambda: (ours.send(first), ours.send(second)))
        assert theirs.receive() == first
        assert theirs.receive() == second
        sent.result()
    assert not theirs.poll()
    assert theirs.received_messages == 2
    assert theirs.received_bytes == ours.sent_bytes == size + len(second)
    ours.close()
    assert theirs.poll()
    with pytest.raises(EOFError):
        theirs.receive()
    theirs.close()


def test_two_ends_that_send_at_once_do_not_wait_for_each_other() -> None:
    ours, theirs = pair()
    large = bytes(32 << 20)  # more than two sockets hold
    received: list[bytes] = []

    def meanwhile() -> None:
        if select.select([ours.socket], [ours.socket], [])[0]:
            received.append(ours.receive())

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: (theirs.send(large), theirs.receive())[1])
        ours.send(large, meanwhile)
        if not received:
            received.append(ours.receive())
        assert other.result(30) == large
    assert received == [large]
    ours.close()
    theirs.close()


def test_a_stranger_is_turned_away_and_the_next_one_is_heard() -> None:
    listener = WireListener("127.0.0.1", SECRET)
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept, MOST, 30.0)
        with pytest.raises((OSError, EOFError)):
            connect("127.0.0.1", listener.port, b"another secret" * 2, "driver", MOST)
        with socket.create_connection(("127.0.0.1", listener.port)) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\n\r\n" * 40)
        known = connect("127.0.0.1", listener.port, SECRET, "driver", MOST)
        name, wire = accepted.result()
    assert name == "driver"
    known.send(b"hello")
    assert wire.receive() == b"hello"
    for one in (known, wire):
        one.close()
    listener.close()


def test_what_the_other_end_proved_cannot_be_sent_back_to_it() -> None:
    """A stranger that mirrors every byte knows the right answer only for the wrong role."""
    listener = WireListener("127.0.0.1", SECRET)
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept, MOST, 1.0)
        with socket.create_connection(("127.0.0.1", listener.port)) as mirror:
            mirror.settimeout(5)
            while data := mirror.recv(1 << 12):
                mirror.sendall(data)
        with pytest.raises(TimeoutError):
            accepted.result()
    listener.close()


def test_a_message_longer_than_announced_to_be_possible_ends_the_wire() -> None:
    ours, theirs = pair(most=100)
    ours.send(bytes(101))
    with pytest.raises(ConnectionResetError, match=r"101 bytes where 100 are the most"):
        theirs.receive()
    ours.close()
    theirs.close()


def test_a_wire_that_breaks_in_the_middle_of_a_message_is_a_closed_one() -> None:
    ours, theirs = pair()
    ours.socket.sendall(b"\x64\x00\x00\x00only a part")
    threading.Timer(0.05, ours.close).start()
    with pytest.raises(EOFError):
        theirs.receive()
    theirs.close()
