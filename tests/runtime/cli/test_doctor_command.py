"""`glm-plan doctor` as a real process: exit codes, JSON, and a line for every finding."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.tiny import REPOSITORY


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", "doctor", *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_good_machine_and_a_plan_that_fits(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    flags = ("plan", "--model", "tiny-glm", "--slots", "2", "--out", str(plan))
    subprocess.run(
        [sys.executable, "-m", "runtime.cli", *flags],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    done = doctor("--plan", str(plan), "--json", GLM_PLAN_CONFIG_DIR=str(tmp_path / "none"))
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["schema"] == "glm-plan/doctor/1"
    checks = {one["check"] for one in document["findings"]}
    assert {
        *("Python", "ONNX Runtime", "import names", "bundle", "cores", "RAM", "swap"),
        *("shared memory", "open files", "clock", "MNN", "plan", "configuration", "models", "disk"),
    } <= checks
    plans = [one["text"] for one in document["findings"] if one["check"] == "plan"]
    assert "it can start here now: cpu blocks 0-7; 2 slots of 2048 tokens" in plans
    assert sum(document["counts"].values()) == len(document["findings"])


def test_what_fails_is_a_line_with_a_remedy_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ("--bundle", str(tmp_path), "--plan", str(tmp_path / "no.json"), "--port", port)
        done = doctor(*arguments)
    assert (done.returncode, done.stderr) == (1, "")
    failed = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failed] == ["plan", "bundle", "port"]
    assert all(": " in line for line in failed)
    assert "end what listens there" in failed[2]
