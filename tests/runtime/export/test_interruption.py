"""Exports that fail, are interrupted or killed: what stays, and what a later one believes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time

import pytest

from runtime.bundle import open_bundle
from runtime.export import exporter, parts
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.export.workspace import only_export, workspace_of
from scheduler.errors import BundleError, UserInputError
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


def refusal(kind, request):
    with pytest.raises(kind) as caught:
        export_bundle(request)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def failing_after(count, monkeypatch):
    """Let the real converter succeed ``count`` times, then fail."""
    calls = []

    def convert(*arguments):
        if len(calls) >= count:
            raise BundleError("Converting failed for this test.")
        calls.append(arguments)
        return real(*arguments)

    real = parts.convert
    monkeypatch.setattr(parts, "convert", convert)
    return calls


def test_resume_keeps_what_was_finished(checkpoint, out, monkeypatch):
    with monkeypatch.context() as patch:
        failing_after(3, patch)
        refusal(BundleError, ExportRequest(checkpoint, out, ("fp16", "int8"), jobs=1))
    assert not out.exists()
    work = workspace_of(out)
    with pytest.raises(BundleError):
        open_bundle(work)
    calls = failing_after(100, monkeypatch)
    request = ExportRequest(checkpoint, out, ("fp16", "int8"), jobs=1, resume=True)
    manifest = export_bundle(request)
    assert len(calls) == 8 - 3
    assert all(len(part.variants) == 2 for part in manifest.parts)
    open_bundle(out, verify=True)
    assert not work.exists()


@pytest.mark.parametrize("harm", ["truncate", "change", "remove", "tear", "garbage"])
def test_resume_believes_only_matching_files(checkpoint, out, monkeypatch, harm):
    with monkeypatch.context() as patch:
        failing_after(2, patch)
        refusal(BundleError, ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    work = workspace_of(out)
    target, journal = work / "mnn-fp16" / "block_01.mnn.weight", work / "journal.jsonl"
    content = bytearray(target.read_bytes())
    lost = 1
    if harm == "truncate":
        target.write_bytes(content[:-1])
    elif harm == "change":
        content[100] ^= 1
        target.write_bytes(content)
    elif harm == "remove":
        target.unlink()
    elif harm == "tear":
        journal.write_bytes(journal.read_bytes()[:-20])
    else:
        journal.write_bytes(b"\x00\xff garbage")
        lost = 2
    (work / "mnn-fp16" / "stray.mnn").write_bytes(b"of an earlier life")
    (work / "stray").mkdir()
    calls = failing_after(100, monkeypatch)
    manifest = export_bundle(ExportRequest(checkpoint, out, ("fp16",), jobs=1, resume=True))
    assert len(calls) == 2 + lost
    open_bundle(out, verify=True)
    listed = {file.path for file in manifest.files()} | {"manifest.json"}
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == listed


def test_without_resume_all_is_made_anew(checkpoint, out, monkeypatch):
    with monkeypatch.context() as patch:
        failing_after(2, patch)
        refusal(BundleError, ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    calls = failing_after(100, monkeypatch)
    export_bundle(ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    assert len(calls) == 4


def test_resume_keeps_nothing_of_another_version(checkpoint, out, monkeypatch):
    with monkeypatch.context() as patch:
        failing_after(2, patch)
        patch.setattr(exporter, "_version", lambda name: "0.0.1")
        refusal(BundleError, ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    calls = failing_after(100, monkeypatch)
    export_bundle(ExportRequest(checkpoint, out, ("fp16",), jobs=1, resume=True))
    assert len(calls) == 4
    open_bundle(out, verify=True)


def test_resume_of_another_checkpoint_is_refused(checkpoint, out, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing_after(2, patch)
        refusal(BundleError, ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    write_checkpoint(tmp_path / "other", SHAPE, seed=1)
    request = ExportRequest(tmp_path / "other", out, ("fp16",), resume=True)
    assert "begun from another checkpoint" in refusal(UserInputError, request)
    assert (workspace_of(out) / "journal.jsonl").exists()


def test_only_one_export_at_a_time(checkpoint, out):
    with only_export(out):
        assert "Another export is writing" in refusal(
            BundleError, ExportRequest(checkpoint, out, ("fp16",))
        )


EXPORT = [sys.executable, "-m", "runtime.cli", "export"]


def start_export(*arguments, **options):
    return subprocess.Popen(
        [*EXPORT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_no_bundle_and_can_resume(tmp_path, out, ending):
    write_checkpoint(tmp_path / "c", Shape(hidden=64, heads=2, blocks=30, vocab=64))
    child = start_export(tmp_path / "c", "--out", out, "--precision", "fp16", "--jobs", 1)
    journal = workspace_of(out) / "journal.jsonl"
    for _ in range(2000):
        with contextlib.suppress(FileNotFoundError):
            if len(journal.read_text().splitlines()) > 4:
                break
        time.sleep(0.01)
    child.send_signal(ending)
    output = child.communicate(timeout=60)
    assert child.returncode != 0
    assert not out.exists()
    if ending == signal.SIGINT:
        assert child.returncode == 130
        assert "--resume" in output[1]
        assert "Traceback" not in output[1]
    finished = len(journal.read_text().splitlines()) - 1
    assert finished >= 4
    again = start_export(tmp_path / "c", "--out", out, "--precision", "fp16", "--resume", "--json")
    printed, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert len(json.loads(printed)["parts"]) == 31
    open_bundle(out, verify=True)
    whole = tmp_path / "whole"
    export_bundle(ExportRequest(tmp_path / "c", whole, ("fp16",), jobs=2))
    assert contents(out) == contents(whole)


def contents(bundle):
    return {
        file.relative_to(bundle): file.read_bytes() for file in bundle.rglob("*") if file.is_file()
    }
