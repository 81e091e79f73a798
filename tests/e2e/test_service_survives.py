"""What a server's clients see when its processes die: a pause. And what is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server import Server, running_server
from tests.support.tiny import TINY_BUNDLE
from tests.support.victims import (
    Client,
    Told,
    asked,
    engine_of,
    family,
    shared_memory_of,
    workers_of,
)

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
# These biases print from the first token on and never end by themselves.
ENDLESS = {"838": 100.0}
SAMPLED = asked("Hello", temperature=2, seed=7, max_tokens=60, logprobs=True, top_logprobs=2)
SAMPLED["logit_bias"] = {str(token): 60.0 for token in range(700, 1200)}
BODIES = [
    asked("hi", max_tokens=80, logit_bias=ENDLESS),
    SAMPLED,
    asked(QUESTION),
    {**SAMPLED, "seed": 8, "frequency_penalty": 1.5},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(
        "--gpu-blocks", "3", "--vram", "4", "--slots", "2", one_core=True
    ) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[Told]:
    told = [Client(server, body).result() for body in BODIES]
    assert all(one.done and not one.faults for one in told)
    assert told[2].text == ANSWER
    return told


@pytest.mark.parametrize("victim", ["engine", "worker"])
def test_answers_under_way_go_on(server: Server, undisturbed: list[Told], victim: str) -> None:
    before = server.metric("engine_restarts_total")
    clients = [Client(server, body) for body in BODIES]  # two in slots, two in the queue
    assert clients[0].begun.wait(60)
    assert clients[1].begun.wait(60)
    process = engine_of(server) if victim == "engine" else workers_of(server)[1]
    assert process is not None
    process.kill()
    assert [client.result() for client in clients] == undisturbed
    assert server.client.get("/health").json()["status"] == "ready"
    if victim == "engine":
        assert server.metric("engine_restarts_total") == before + 1
        assert server.metric("replays_total") >= 1  # the other one may have ended before
    assert len(workers_of(server)) == 2
    assert server.metric("slots_busy") == 0


def test_an_engine_that_dies_idle_is_back_for_the_next_question(server: Server) -> None:
    old = engine_of(server)
    assert old is not None
    memory = shared_memory_of(server)
    assert memory
    old.kill()
    old.wait(30)
    told = Client(server, asked(QUESTION)).result()
    assert (told.text, told.faults) == (ANSWER, [])
    assert engine_of(server) != old
    assert not any(piece.exists() for piece in memory)


def test_what_left_while_it_paused_takes_no_slot(server: Server) -> None:
    engine = engine_of(server)
    assert engine is not None
    with server.client.stream(
        "POST", "/v1/chat/completions", json={**BODIES[0], "stream": True}
    ) as response:
        next(response.iter_lines())
        engine.kill()
    server.wait_for("slots_busy", 0)
    server.wait_for("ready", 1)
    assert server.chat(QUESTION).json()["choices"][0]["message"]["content"] == ANSWER


def test_the_engine_is_killed_in_vain_while_it_loads(server: Server) -> None:
    """It takes its time, and what was asked meanwhile is answered."""
    for _ in range(2):
        engine = engine_of(server)
        assert engine is not None
        engine.kill()
        engine.wait(30)
        while engine_of(server) in (None, engine):
            pass
    client = Client(server, asked(QUESTION))
    assert client.result().text == ANSWER


def test_sigterm_under_load_lets_all_answers_end() -> None:
    with running_server("--slots", "2", "--queue", "8", one_core=True) as server:
        everybody = family(server)
        body = asked("hi", max_tokens=700, logit_bias=ENDLESS)
        clients = [Client(server, body) for _ in range(4)]
        server.wait_for("queue_waiting", 2)
        for process in everybody:  # as systemd and others do, to every process of a service
            process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        told = [client.result() for client in clients]
        assert [(one.done, one.finish_reason, one.faults) for one in told] == [
            (True, "length", [])
        ] * 4
        assert gone(everybody)


def test_a_second_interrupt_ends_at_once() -> None:
    with running_server("--drain-seconds", "300", "--context", "2048", one_core=True) as server:
        everybody, memory = family(server), shared_memory_of(server)
        assert memory
        client = Client(server, asked("hi", logit_bias=ENDLESS))
        assert client.begun.wait(60)
        server.process.send_signal(signal.SIGINT)
        wait_until_it_refuses(server)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
        assert not client.result().done
        assert "Traceback" not in "".join(server.lines)
        assert gone(everybody)
    assert not any(piece.exists() for piece in memory)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_server_leaves_nothing(stopped: bool) -> None:
    with running_server("--gpu-blocks", "3", "--vram", "4", one_core=True) as server:
        everybody, memory = family(server), shared_memory_of(server)
        assert memory
        client = Client(server, asked("hi", logit_bias=ENDLESS))
        assert client.begun.wait(60)
        if stopped:  # a worker that does not react either
            os.kill(workers_of(server)[0].pid, signal.SIGSTOP)
        server.process.kill()
        assert server.process.wait(60) == -signal.SIGKILL
        assert gone(everybody)
    assert not any(piece.exists() for piece in memory)


def test_a_device_that_cannot_load_has_fewer_blocks(tmp_path: Path) -> None:
    bundle = _bundle_with_a_block_that_loads_on_the_cpu_only(tmp_path)
    arguments = ("--bundle", str(bundle), "--gpu-blocks", "5", "--vram", "4", "--slots", "2")
    with running_server(*arguments, one_core=True) as server:
        health = server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        moved = health.json()["degraded"][-1]
        assert moved.startswith("one block of gpu0 moved to the CPU: gpu0 (mnn:cpu): MNN")
        document = server.client.get("/plan").json()
        assert (document["plan"]["gpu_blocks"], document["plan"]["cpu_blocks"]) == (4, 4)
        assert document["degraded"][-1] == document["plan"]["warnings"][-1] == moved
        assert [stage["blocks"] for stage in document["stages"]] == ["0-3", "4-7"]
        assert (server.metric("degraded"), server.metric("ready")) == (1, 1)
        assert moved in "".join(server.lines)
        assert server.chat(QUESTION).json()["choices"][0]["message"]["content"] == ANSWER


def wait_until_it_refuses(server: Server) -> None:
    """Until a server that was told to end has stopped to listen."""
    address = httpx.URL(server.url)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection((address.host, address.port or 0), timeout=5).close()
        except ConnectionError:
            return
        time.sleep(0.02)
    raise AssertionError("it still listens")


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def _bundle_with_a_block_that_loads_on_the_cpu_only(folder: Path) -> Path:
    """Every part twice, for the CPU's precision and the GPU's, and block 4 of the GPU's damaged."""
    bundle = folder / "bundle"
    shutil.copytree(TINY_BUNDLE, bundle)
    shutil.copytree(bundle / "mnn-fp16", bundle / "mnn-fp32")
    manifest = json.loads((bundle / "manifest.json").read_text())
    for part in manifest["parts"]:
        [variant] = part["variants"]
        files = [
            {**file, "path": file["path"].replace("mnn-fp16", "mnn-fp32")}
            for file in variant["files"]
        ]
        part["variants"].append({**variant, "precision": "fp32", "files": files})
        if part["name"] == "block_4":
            damaged = bundle / variant["files"][0]["path"]
            damaged.write_bytes(b"\0" * damaged.stat().st_size)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle
