"""The page's files: those of others as published, ours small, all of them in the wheel."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from runtime.service.page_files import PAGE_FOLDER
from tests.support.tiny import REPOSITORY

VENDOR = PAGE_FOLDER / "vendor"


def test_files_of_others_are_as_published_and_licensed() -> None:
    table = (VENDOR / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| ([\w.]+\.js) \|.*\| ([0-9a-f]{64}) \|$", table, re.MULTILINE))
    found = {path.name: path.read_bytes() for path in VENDOR.glob("*.js")}
    assert {name: hashlib.sha256(text).hexdigest() for name, text in found.items()} == listed
    for name in found:
        assert (VENDOR / f"{name.split('.')[0]}.LICENSE").is_file()


def test_no_script_or_style_is_inline_and_nothing_is_from_elsewhere() -> None:
    html = (PAGE_FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|<script>|\sstyle=|\son\w+=", html)
    own = [path for suffix in ("html", "css", "js") for path in PAGE_FOLDER.rglob(f"*.{suffix}")]
    for path in own:
        if path.parent != VENDOR:
            text = path.read_text("utf-8")
            assert not re.search(r"https?://", text), path
            assert text.count("\n") < 200, path


def test_the_service_worker_keeps_files_of_the_page_only() -> None:
    text = (PAGE_FOLDER / "service-worker.js").read_text("utf-8")
    found = re.search(r"const KEPT = /(.+)/;", text)
    assert found
    kept = re.compile(found[1].replace(r"\/", "/"))
    for path in PAGE_FOLDER.rglob("*.*"):
        name = "/" + path.relative_to(PAGE_FOLDER).as_posix()
        assert bool(kept.match(name)) == (name != "/service-worker.js"), name
    assert kept.match("/")
    for name in ("/status", "/plan", "/v1/chat/completions", "/metrics", "/js/../status"):
        assert not kept.match(name)


def test_the_wheel_brings_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    for path in PAGE_FOLDER.rglob("*.*"):
        assert path.relative_to(REPOSITORY).as_posix() in names
