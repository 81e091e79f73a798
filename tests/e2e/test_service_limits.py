"""A server under pressure: slots, queue, clients that leave, keys, timeouts, its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server import Server, running_server
from tests.support.tiny import REPOSITORY, TINY_BUNDLE

# Greedy, this bias repeats one token until the context is full: an answer that takes seconds.
LONG = {"logit_bias": {"100": 100.0}, "stream": True}


class Streaming(threading.Thread):
    """A client that reads a stream until told to leave."""

    def __init__(self, server: Server, **fields: object) -> None:
        super().__init__(daemon=True)
        self._url = f"{server.url}/v1/chat/completions"
        self._body = {
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0,
            **LONG,
            **fields,
        }
        self.begun = threading.Event()
        self.leave = threading.Event()
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=120) as response:
            for line in response.iter_lines():
                self.lines.append(line)
                self.begun.set()
                if self.leave.is_set():
                    return


def test_a_full_house_refuses_and_a_leaver_makes_room() -> None:
    with running_server("--queue", "1", "--slots", "2") as server:
        slots = int(server.metric("slots"))
        running = [Streaming(server) for _ in range(slots)]
        server.wait_for("slots_busy", slots)
        waiting = Streaming(server, max_tokens=3)
        server.wait_for("queue_waiting", 1)
        refused = server.chat("x")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert not waiting.begun.is_set()
        assert running[0].begun.wait(60)
        running[0].leave.set()
        waiting.join(60)
        assert waiting.lines[-2] == "data: [DONE]"
        for one in running[1:]:
            one.leave.set()
        server.wait_for("slots_busy", 0)
        assert server.metric("answers_total") == slots + 1
        assert server.chat("What is the capital of France?").status_code == 200


def test_a_leaver_without_a_stream_frees_its_slot_and_its_place() -> None:
    with running_server() as server:
        slots = int(server.metric("slots"))
        body = b'{"messages":[{"role":"user","content":"hi"}],"logit_bias":{"100":100}}'
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        address = httpx.URL(server.url)
        asking = []
        for _ in range(slots + 2):
            connection = socket.create_connection((address.host, address.port))
            connection.sendall(head.encode() + body)
            asking.append(connection)
        server.wait_for("queue_waiting", 2)
        for connection in asking:
            connection.close()
        server.wait_for("queue_waiting", 0)
        server.wait_for("slots_busy", 0)


def test_time_runs_out_and_silence_is_commented() -> None:
    with running_server(
        "--slots", "2", "--request-seconds", "1.5", "--keep-alive-seconds", "0.2"
    ) as server:
        slots = int(server.metric("slots"))
        running = [Streaming(server) for _ in range(slots)]
        server.wait_for("slots_busy", slots)
        waiting = Streaming(server)
        whole = server.chat("hi", logit_bias=LONG["logit_bias"])
        assert whole.status_code == 504
        for one in [*running, waiting]:
            one.join(60)
            assert '"timeout_error"' in "".join(one.lines)
        assert ": keep-alive" in waiting.lines
        server.wait_for("slots_busy", 0)


def test_keys_open_everything_but_health(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first-secret\nsecond-secret\n", encoding="utf-8")
    with running_server("--api-key-file", str(file)) as server:
        client = server.client
        assert client.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/plan", "/status", "/openapi.json", "/v1/x"):
            refused = client.get(path)
            assert refused.status_code == 401, path
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        for key in ("wrong", "first-secre", "first-secret1", "-"):
            given = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert given.status_code == 401
        for key in ("first-secret", "second-secret"):
            given = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert given.status_code == 200


def test_the_end_drains_and_leaves_nothing(tmp_path: Path) -> None:
    with running_server("--log-level", "debug") as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        running = Streaming(server, max_tokens=60)
        assert running.begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        running.join(60)
        assert running.lines[-2] == "data: [DONE]"
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        assert '"hi"' not in "".join(server.lines)


def test_flags_are_stronger_than_the_environment_and_that_than_the_file(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text("queue = 3\ncontext = 100\nmax-messages = 2\n", encoding="utf-8")
    environment = {"GLM_PLAN_QUEUE": "5", "GLM_PLAN_CONTEXT": "200"}
    flags = ("--config", str(config), "--queue", "7")
    with running_server(*flags, environment=environment) as server:
        status = server.client.get("/status").json()
        assert status["queue_limit"] == 7
        assert status["context_tokens"] == 200
        messages = [{"role": "user", "content": "x"}] * 3
        refused = server.client.post("/v1/chat/completions", json={"messages": messages})
        assert "takes 2" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--host", "0.0.0.0"), "no key protects it"),
        (("--host", "203.0.113.9", "--insecure"), "cannot be listened at"),
        (("--api-key", "short"), "at least 8 characters"),
        (("--bundle", "/nonexistent"), "/nonexistent is not a directory"),
        (("--max-body", "many"), "--max-body"),
    ],
)
def test_a_server_that_cannot_start_says_so(arguments: tuple[str, ...], sentence: str) -> None:
    done = _serve(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_that_does_not_load_ends_the_server(tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(TINY_BUNDLE, bundle)
    for part in bundle.rglob("block_2.mnn"):
        part.write_bytes(b"\0" * part.stat().st_size)
    for part in bundle.rglob("block_02*"):
        part.write_bytes(b"\0" * part.stat().st_size)
    done = _serve("--bundle", str(bundle))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_chat_talks_with_a_server() -> None:
    with running_server("--api-key", "a-long-key") as server:
        flags = ("chat", "--server", server.url, "--api-key", "a-long-key")
        done = subprocess.run(
            [sys.executable, "-m", "runtime.cli", *flags],
            cwd=REPOSITORY,
            input="法国的首都是哪里？\n那日本呢？\n/plan\n/reset\n/quit\n",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("法国的首都是巴黎。\n日本的首都是东京。\n")
        assert "0 of 8 blocks on the GPU" in done.stdout
        refused = _glm_plan("chat", "--server", server.url)
        assert refused.returncode == 2
        assert "a key is missing" in refused.stderr
        refused = _glm_plan("chat", "--server", server.url, "--vram", "3")
        assert "leave --vram out" in refused.stderr
    gone = _glm_plan("chat", "--server", server.url)
    assert gone.returncode == 1
    assert "cannot be asked" in gone.stderr


def _serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _glm_plan("serve", "--port", "0", *arguments)


def _glm_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        cwd=REPOSITORY,
        input="",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
