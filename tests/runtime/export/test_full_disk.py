"""A disk that fills up while an export runs: a file system of our own, too small, filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bundle import open_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=32, heads=2, blocks=8, vocab=64)

# Runs inside a mount namespace: disk, checkpoint and the place for what a resumed export made.
DRIVER = """
import shutil, subprocess, sys, time
from pathlib import Path
from runtime.export.workspace import workspace_of

disk, checkpoint, result = map(Path, sys.argv[1:])
out = disk / 'b'
words = [sys.executable, '-m', 'runtime.cli', 'export', checkpoint, '--out', out, '--jobs', '1',
         '--precision', 'fp32']
child = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
journal = workspace_of(out) / 'journal.jsonl'
while child.poll() is None and not (
    journal.exists() and len(journal.read_text().splitlines()) > 2
):
    time.sleep(0.01)
assert child.poll() is None, child.stderr.read()
try:
    with (disk / 'filler').open('wb', buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
except OSError as error:
    assert error.errno == 28, error
_, said = child.communicate(timeout=120)
assert child.returncode == 2, (child.returncode, said)
assert 'Traceback' not in said, said
assert not out.exists()
finished = len(journal.read_text().splitlines()) - 1
assert 2 <= finished < 9, finished
(disk / 'filler').unlink()
subprocess.run([*words, '--resume'], check=True, capture_output=True)
shutil.copytree(out, result)
print(said)
"""


def test_a_disk_that_fills_up_can_be_freed_and_the_export_resumed(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "glm-plan-test"]
    disk, checkpoint = tmp_path / "disk", tmp_path / "c"
    disk.mkdir()
    if subprocess.run(["unshare", "-m", *mount, disk], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system of its own")
    write_checkpoint(checkpoint, SHAPE, precision="fp32")
    script = f'{" ".join(mount)} "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'
    words = ["unshare", "-m", "sh", "-c", script, "sh"]
    words += [disk, sys.executable, DRIVER, checkpoint, tmp_path / "resumed"]
    driver = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert driver.returncode == 0, driver.stderr
    # Whoever notices first tells: the system, or the converter's file that is too short.
    assert "No space left on device" in driver.stdout or "failed" in driver.stdout
    open_bundle(tmp_path / "resumed", verify=True)
    export_bundle(ExportRequest(checkpoint, tmp_path / "whole", ("fp32",), jobs=1, name="c"))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def contents(bundle: Path) -> dict[Path, bytes]:
    return {one.relative_to(bundle): one.read_bytes() for one in bundle.rglob("*") if one.is_file()}
