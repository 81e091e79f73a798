"""Several processes at one bundle: exports that meet, readers of what is being replaced."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.bundle import open_bundle, require_unchanged
from runtime.export import publish as publishing
from runtime.export.exporter import export_bundle
from runtime.export.publish import publish, restore, set_aside
from runtime.export.request import ExportRequest
from runtime.export.workspace import workspace_of
from scheduler.errors import BundleError
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=32, heads=2, blocks=3, vocab=64)


def export(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime.cli", "export", *map(str, words), "--jobs", "1"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "first", SHAPE)
    return tmp_path / "first"


def test_the_second_export_is_refused_and_a_killed_one_holds_nobody_up(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    first = export(checkpoint, "--out", out, "--precision", "fp16")
    wait_for(workspace_of(out) / "journal.jsonl")
    first.send_signal(signal.SIGSTOP)  # as long as this test needs
    second = export(checkpoint, "--out", out, "--precision", "int8")
    _, said = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"glm-plan: Another export is writing {out}; wait for it," in said
    first.kill()
    first.communicate()
    assert not out.exists()
    third = export(checkpoint, "--out", out, "--precision", "fp16", "--resume")
    assert third.communicate(timeout=120)[1] is not None
    assert third.returncode == 0
    open_bundle(out, verify=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "first"]


def test_readers_see_one_bundle_or_the_other_while_exports_replace_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "second", SHAPE, seed=1)
    out = tmp_path / "b"
    whole = [export_bundle(ExportRequest(checkpoint, out, ("fp16",), jobs=1))]
    whole.append(
        export_bundle(ExportRequest(tmp_path / "second", tmp_path / "c", ("fp16",), jobs=1))
    )
    child = export(tmp_path / "second", "--out", out, "--precision", "fp16", "--force")
    seen = set()
    while child.poll() is None:
        opened = open_bundle(out)
        assert [opened.manifest.source_sha256] in [[one.source_sha256] for one in whole]
        seen.add(opened.manifest.source_sha256)
    child.communicate()
    assert child.returncode == 0
    assert open_bundle(out, verify=True).manifest.source_sha256 == whole[1].source_sha256
    assert whole[0].source_sha256 in seen


def test_a_model_whose_bundle_was_replaced_is_not_mixed(checkpoint: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "second", SHAPE, seed=1)
    out = tmp_path / "b"
    export_bundle(ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    opened = open_bundle(out)
    export_bundle(ExportRequest(checkpoint, out, ("int8",), jobs=1))
    require_unchanged(opened)  # more variants beside the same ones
    export_bundle(ExportRequest(tmp_path / "second", out, ("fp16",), jobs=1, force=True))
    with pytest.raises(BundleError, match="was replaced by another export"):
        require_unchanged(opened)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_directory_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(publishing, "_exchange", lambda *_: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    publish(tmp_path / "new", tmp_path / "old")
    assert [one.name for one in tmp_path.iterdir()] == ["old"]
    assert [one.name for one in (tmp_path / "old").iterdir()] == ["new"]


def test_a_replacement_cut_off_between_its_two_steps_is_undone(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    export_bundle(ExportRequest(checkpoint, out, ("fp16",), jobs=1))
    out.rename(set_aside(out))
    export_bundle(ExportRequest(checkpoint, out, ("int8",), jobs=1))
    kinds = {one.precision for one in open_bundle(out, verify=True).manifest.parts[0].variants}
    assert kinds == {"fp16", "int8"}
    set_aside(out).mkdir()  # cut off after both steps
    restore(out)
    assert not set_aside(out).exists()
    open_bundle(out)


def test_a_link_to_a_bundle_stays_one(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    export_bundle(ExportRequest(checkpoint, tmp_path / "disk" / "b", ("fp16",), jobs=1))
    link.symlink_to(tmp_path / "disk" / "b")
    export_bundle(ExportRequest(checkpoint, link, ("int8",), jobs=1, force=True))
    assert link.is_symlink()
    open_bundle(link, verify=True)
    assert [one.name for one in (tmp_path / "disk").iterdir()] == ["b"]
