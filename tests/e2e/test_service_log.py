"""A server's log as JSON: every line parses, each request has its id, and no prompt is in it."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from tests.e2e.test_service_limits import Streaming
from tests.support.server import Server, running_server
from tests.support.victims import workers_of

QUESTION = "What is the capital of France?"


def log_of(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines]


def test_requests_and_faults_are_told_in_json() -> None:
    with running_server("--log-format", "json", "--log-level", "info") as server:
        named = server.client.post(
            "/v1/completions",
            json={"prompt": QUESTION, "max_tokens": 3},
            headers={"X-Request-Id": "trace-17"},
        )
        assert named.headers["X-Request-Id"] == "trace-17"
        forged = server.client.get(
            "/v1/nothing?prompt=secret", headers={"X-Request-Id": 'x" level="'}
        )
        assert re.fullmatch("[0-9a-f]{16}", forged.headers["X-Request-Id"])
        refused = server.client.get("/health", headers={"Host": "elsewhere.example"})
        assert refused.status_code == 403
        assert refused.headers["X-Request-Id"]
        running = Streaming(server, logit_bias={"838": 100.0})
        assert running.begun.wait(60)
        workers_of(server)[0].kill()
        running.join(60)
        server.wait_for("ready", 1)
    lines = log_of(server)
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    asked = next(one for one in lines if one.get("request_id") == "trace-17")
    assert asked["message"] == "POST /v1/completions"
    assert asked["status"] == 200
    assert asked["seconds"] > 0
    paths = [one["message"] for one in lines if one.get("status") == 404]
    assert paths == ["GET /v1/nothing"]
    fault = next(one for one in lines if "died with signal SIGKILL" in one["message"])
    assert fault["level"] == "warning"
    assert (fault["device"], fault["blocks"]) == ("cpu", "0-7")
    assert fault["cause"] == "signal SIGKILL"
    assert fault["restart"] == 1
    waits = next(one for one in lines if one["message"] == "an answer under way waits")
    assert (waits["device"], waits["blocks"]) == ("cpu", "0-7")
    assert waits["request_id"] in {one["request_id"] for one in lines if one.get("status") == 200}
    text = "".join(server.lines)
    assert QUESTION not in text
    assert "secret" not in text


def test_a_request_that_fails_inside_has_an_id_too() -> None:
    with running_server("--log-level", "info") as server:
        answer = httpx.get(f"{server.url}/health")
        assert len(answer.headers["X-Request-Id"]) == 16
        request = answer.headers["X-Request-Id"]
    assert any(f"[{request}] GET /health status=200" in line for line in server.lines)
