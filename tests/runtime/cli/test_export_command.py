"""`glm-plan export` as people run it: options, missing extras, and no word to the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bundle import open_bundle
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=32, heads=2, blocks=3, vocab=64)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model"
    write_checkpoint(path, SHAPE)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "bundles" / "b"


EXPORT = [sys.executable, "-m", "runtime.cli", "export"]


def start_export(*arguments, **options):
    return subprocess.Popen(
        [*EXPORT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_no_network_and_no_installer(checkpoint, out, tmp_path):
    """Neither this process nor a child opens a socket or starts pip; a guard in each would tell."""
    guard = tmp_path / "guard"
    guard.mkdir()
    log = tmp_path / "log"
    (guard / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def watch(event, arguments):\n"
        "    names = event in ('socket.connect', 'socket.getaddrinfo', 'socket.__new__')\n"
        "    started = event == 'subprocess.Popen' and 'pip' in str(arguments)\n"
        "    imported = event == 'import' and arguments[0] in ('MNN.tools', 'aliyun', 'pip')\n"
        "    if names or started or imported or event == 'os.system':\n"
        f"        with open({str(log)!r}, 'a') as log:\n"
        "            log.write(f'{event} {arguments}\\n')\n"
        f"with open({str(log)!r}, 'a') as log:\n"
        "    log.write('started\\n')\n"
        "sys.addaudithook(watch)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(guard), str(Path.cwd())])}
    child = start_export(checkpoint, "--out", out, env=environment)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    # One interpreter for the command and one per part, and nothing else to report.
    assert log.read_text().splitlines() == ["started"] * (1 + 4)


def test_works_without_any_network_interface(checkpoint, out):
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a network namespace")
    child = subprocess.run(
        ["unshare", "-n", *EXPORT, checkpoint, "--out", out], capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr
    open_bundle(out, verify=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int3"], "--precision is 'int3'"),
        (["--precision", ""], "--precision is ''"),
        (["--head-precision", "fp64"], "fp64"),
        (["--jobs", "0"], "--jobs"),
        (["--weight-block", "40"], "--weight-block is 40"),
    ],
)
def test_bad_options_are_one_sentence(checkpoint, out, arguments, said):
    child = start_export(checkpoint, "--out", out, *arguments)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 2
    assert said in errors
    assert "Traceback" not in errors


def test_a_missing_extra_is_named(checkpoint, out, tmp_path):
    """A path entry that hides the package, as if it were not installed."""
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find_spec = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'onnx' else find_spec(name, *rest)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(hide), str(Path.cwd())])}
    child = start_export(checkpoint, "--out", out, env=environment)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "pip install 'glm-plan[export]'" in errors
