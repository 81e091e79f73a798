"""What confined children can no longer do, tried in real ones."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.export.converter import _child_environment
from tests.support.tiny import REPOSITORY

# Says whether the network was left, and whether somebody listens at the port.
CHILD = """
import json, os, resource, socket, sys
from runtime.confine import confine
before = os.readlink("/proc/self/ns/net")
confine()
alone = os.readlink("/proc/self/ns/net") != before
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
    reached = True
except OSError:
    reached = False
status = open("/proc/self/status").read()
print(json.dumps({
    "alone": alone,
    "reached": reached,
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "no_new_privileges": "NoNewPrivs:\\t1" in status,
    "can_write": bool(open(sys.argv[2], "w").write("x")),
}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux has network namespaces")
def test_a_confined_process_reaches_nobody(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = str(listening.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", CHILD, port, str(tmp_path / "file")],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    assert found["reached"] is not found["alone"]
    assert (found["core"], found["no_new_privileges"], found["can_write"]) == (0, True, True)
    if os.geteuid() == 0 and _may_unshare():
        assert found["alone"]


def test_the_converter_sees_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("GLM_PLAN_API_KEY", "secret")
    environment = _child_environment(tmp_path)
    assert "secret" not in environment.values()
    assert environment["TMPDIR"] == str(tmp_path)
    assert environment["PYTHONPATH"]


def _may_unshare() -> bool:
    return subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0
