"""Exports at full width: time, memory of all processes, file sizes, and a kill with resume.

`python -m tests.bench.export_full_width FOLDER` makes a random ChatGLM-6B checkpoint in FOLDER
(`--blocks 28`: 13 GB) unless `--checkpoint` names one, exports it by the command line and prints
figures. `--kill` also exports it a second time with SIGKILL on the way and `--resume`, and compares
every file. Linux only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import psutil

from runtime.bundle import open_bundle
from runtime.export.workspace import workspace_of
from scheduler.units import MIB
from tests.bench.wide_bundle import write_wide_checkpoint
from tests.support.chatglm_checkpoint import Shape

SAMPLE_SECONDS = 0.1
LARGEST_SIZE_ERROR = 0.01
EXPECTED_MIB = {"int4": 103, "int8": 193, "fp16": 385, "fp32": 769}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--blocks", default=2, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--precision", default="int4,int8", show_default=True)
@click.option("--jobs", type=int)
@click.option("--kill", is_flag=True, help="Kill a second export half-way, resume, compare.")
def main(
    folder: Path,
    blocks: int,
    checkpoint: Path | None,
    precision: str,
    jobs: int | None,
    kill: bool,
) -> None:
    """Export at full width and print what it took."""
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        checkpoint = folder / f"chatglm-{blocks}-blocks"
        if not checkpoint.exists():
            write_wide_checkpoint(
                checkpoint, Shape(hidden=4096, heads=32, blocks=blocks, vocab=130528)
            )
    options = ["--precision", precision, *(["--jobs", str(jobs)] if jobs else [])]
    bundle = folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    seconds, rss_bytes, pss_bytes = export(checkpoint, bundle, options)
    print(f"{precision}: {seconds:.0f} s, peak of the process tree {rss_bytes / MIB:,.0f} MiB RSS,")
    print(f"{pss_bytes / MIB:,.0f} MiB PSS (pages of mapped files shared and counted once)")
    manifest = open_bundle(bundle).manifest
    print(f"bundle {manifest.size_bytes / 1e9:.2f} GB, embedding included")
    for variant in manifest.parts[0].variants:
        size, expected = variant.size_bytes / MIB, EXPECTED_MIB[variant.precision]
        off = size / expected - 1
        print(f"block_0 {variant.precision}: {size:.1f} MiB, {off:+.1%} of {expected}")
        if abs(off) > LARGEST_SIZE_ERROR:
            raise SystemExit("that is over 1 % off")
    if kill:
        finished, seconds = killed_and_resumed(checkpoint, folder / "resumed", options)
        print(f"SIGKILL after {finished} parts, --resume took {seconds:.0f} s more")
        if checksums(bundle) != checksums(folder / "resumed"):
            raise SystemExit("the files differ")
        print("all files are the same bytes")


def export(checkpoint: Path, out: Path, options: list[str]) -> tuple[float, int, int]:
    """Run an export; seconds, and the largest sums of RSS and of PSS over its processes."""
    started = time.monotonic()
    child = start(checkpoint, out, options)
    tree, rss_bytes, pss_bytes = psutil.Process(child.pid), 0, 0
    while child.poll() is None:
        with contextlib.suppress(psutil.Error):
            infos = [one.memory_full_info() for one in [tree, *tree.children(recursive=True)]]
            rss_bytes = max(rss_bytes, sum(info.rss for info in infos))
            pss_bytes = max(pss_bytes, sum(info.pss for info in infos))
        time.sleep(SAMPLE_SECONDS)
    if child.returncode:
        raise SystemExit(f"the export failed with exit code {child.returncode}")
    return time.monotonic() - started, rss_bytes, pss_bytes


def killed_and_resumed(checkpoint: Path, out: Path, options: list[str]) -> tuple[int, float]:
    """Kill an export when a third of its parts are done, resume it; parts kept, seconds after."""
    shutil.rmtree(out, ignore_errors=True)
    parts = json.loads((checkpoint / "config.json").read_text())["num_layers"] // 3 + 1
    child = start(checkpoint, out, options)
    journal = workspace_of(out) / "journal.jsonl"
    while child.poll() is None and lines(journal) - 1 < parts:
        time.sleep(SAMPLE_SECONDS)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = lines(journal) - 1
    return finished, export(checkpoint, out, [*options, "--resume"])[0]


def start(checkpoint: Path, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Start the command; its progress goes to stderr."""
    command = [sys.executable, "-m", "runtime.cli", "export", str(checkpoint), "--out", str(out)]
    command += ["--name", "chatglm-6b", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])


def lines(path: Path) -> int:
    """Lines of a file, 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return len(path.read_bytes().splitlines())
    return 0


def checksums(bundle: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    found = {}
    for folder, _, names in os.walk(bundle):
        for name in names:
            path = Path(folder, name)
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            found[path.relative_to(bundle).as_posix()] = digest.hexdigest()
    return found


if __name__ == "__main__":
    main()
