"""The command line and the server on a real Ray cluster of two nodes, one of which is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_cluster import LocalCluster
from tests.support.server import Server, running_server
from tests.support.tiny import REPOSITORY

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
HOSTS = """
driver = "a"
[[host]]
name = "a"
cores = 1
ram = 8
[[host]]
name = "b"
cores = 1
ram = 8
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    local = LocalCluster(tmp_path_factory.mktemp("nodes"), cpus=(1, 1))
    try:
        yield local
    finally:
        local.close()


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan by the planner, which has put all on one host, spread over two by hand."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "lab.toml").write_text(HOSTS)
    path = folder / "plan.json"
    lab = ("--cluster", str(folder / "lab.toml"))
    command("plan", *lab, "--model", "tiny-glm", "--context", "256", "--out", str(path))
    document = json.loads(path.read_text())
    replica, hosts = document["replicas"][0], document["hosts"]
    (alone,) = replica["stages"]
    hop = {**alone["hop"], "to_host": "b", "network": True, "carries": "hidden"}
    first = {"last_block": 4, "lm_head": False, "lm_head_precision": None, "hop": hop}
    second = {"first_block": 5, "host": "b"}
    replica["stages"] = [{**alone, **first}, {**alone, **second}]
    document["hosts"] = [hosts[0], {**hosts[0], "name": "b"}]
    path.write_text(json.dumps(document))
    return path


def command(*arguments: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(server: Server) -> list[tuple[str, str]]:
    """Devices and blocks of the plan in force, checked against the metrics."""
    stages = server.client.get("/plan").json()["stages"]
    assert all(stage["actual_bytes"] > 0 for stage in stages)
    lines = server.client.get("/metrics").text.splitlines()
    shown = [line for line in lines if line.startswith("glm_plan_resident_blocks{")]
    assert len(shown) == len(stages)
    assert server.metric("resident_blocks") == 8
    return [(stage["device"], stage["blocks"]) for stage in stages]


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_a_server_says_which_host_is_lost_and_uses_it_again(
    cluster: LocalCluster, plan_file: Path
) -> None:
    arguments = ("--cluster", cluster.address, "--plan", str(plan_file))
    with running_server(*arguments) as server:
        ask = server.chat
        assert ask(QUESTION).json()["choices"][0]["message"]["content"] == ANSWER
        whole = [("a/cpu", "0-4"), ("b/cpu", "5-7")]
        server.wait_for("degraded", 0)
        assert blocks(server) == whole
        status: dict[str, Any] = json.loads(
            command("cluster", "status", "--address", cluster.address, "--json")
        )
        assert [host["name"] for host in status["hosts"]] == ["a", "b"]
        (run,) = status["runs"]
        assert [(one["device"], one["blocks"]) for one in run["stages"]] == whole

        cluster.kill("b")
        server.wait_for("degraded", 1)
        health = server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        reason = "b is lost; a compute its blocks"
        assert health.json()["degraded"] == [reason]
        document = server.client.get("/plan").json()
        assert document["degraded"] == [reason]
        assert [stage["device"] for stage in document["plan"]["stages"]] == ["a/cpu"]
        assert blocks(server) == [("a/cpu", "0-7")]
        assert reason in "".join(server.lines)
        assert ask(QUESTION).json()["choices"][0]["message"]["content"] == ANSWER

        cluster.add("b")
        server.wait_for("degraded", 0)
        server.wait_for("ready", 1)
        assert server.client.get("/health").json()["degraded"] == []
        assert blocks(server) == whole
        assert ask(QUESTION).json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_run_answers_over_two_nodes(cluster: LocalCluster, plan_file: Path) -> None:
    where = ("--cluster", cluster.address, "--plan", str(plan_file))
    assert command("run", *where, "--temperature", "0", QUESTION).strip() == ANSWER


@pytest.mark.parametrize("arguments", [("run", "--cluster", "auto", "hi"), ("cluster", "status")])
def test_without_ray_one_sentence_says_what_to_install(arguments: tuple[str, ...]) -> None:
    hide = "import sys; sys.modules['ray'] = None; from runtime.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hide, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'glm-plan[cluster]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
