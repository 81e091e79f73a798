"""What a stage on a device holds over thousands of decode steps, seen as memory of its process.

`python -m tests.bench.device_growth` exports the tiny model and runs its blocks on ort:webgpu, on
the Vulkan driver in software that Debian's chromium package ships: device memory is memory of the
process there. Prompts of 60 tokens are answered with 140 steps each, so that every answer grows its
cache from 64 to 256 tokens and gives it back. Prints resident memory as a Markdown table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import psutil

from runtime.bundle import open_bundle, select_variant
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.support import webgpu
from tests.support.tiny import TINY_CHECKPOINT

PROMPT, ANSWER = 60, 140


@click.command()
@click.option("--steps", default=2000, show_default=True)
@click.option("--blocks", default=2, show_default=True, help="Of the tiny model.")
@click.option("--backend", default="ort:webgpu", show_default=True)
@click.option("--inside", type=click.Path(path_type=Path), hidden=True)
def main(steps: int, blocks: int, backend: str, inside: Path | None) -> None:
    """Print resident memory at the start and after each quarter of the steps."""
    if inside is not None:
        measure(inside, steps, blocks, backend)
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_bundle(ExportRequest(TINY_CHECKPOINT, bundle, ("fp32",), engines=("ort",)))
        subprocess.run(
            [sys.executable, "-m", "tests.bench.device_growth", *sys.argv[1:], "--inside", bundle],
            env=os.environ | webgpu.environment(),
            check=True,
        )


def measure(path: Path, steps: int, blocks: int, backend_name: str) -> None:
    """Run the steps in this process, which sees the driver."""
    from runtime.backends.choose import open_backend
    from runtime.stage import Stage, finished
    from runtime.step_inputs import Row
    from scheduler.slots import kv_capacity

    bundle = open_bundle(path)
    geometry = bundle.manifest.geometry
    backend = open_backend(backend_name, 1, geometry.kv_heads, geometry.head_dim, False)
    for number in range(blocks):
        variant = select_variant(bundle.manifest, f"block_{number}", "ort", "fp32").variant
        backend.load_block(bundle.file(variant.files[0]))
    stage = Stage(backend, geometry.turning, PROMPT + ANSWER + 1)
    random = np.random.default_rng(0)
    hidden = random.standard_normal((PROMPT, geometry.hidden_size), np.float32)
    process = psutil.Process()

    def answer(most: int) -> int:
        """One request, from its prompt to giving the cache back."""
        stage.arrange(0, 1, kv_capacity(PROMPT), [-1])
        finished(stage.prefill(0, 0, Row(0, PROMPT - 1, PROMPT - 2), hidden))
        held = kv_capacity(PROMPT)
        for cached in range(PROMPT, PROMPT + min(most, ANSWER)):
            capacity = kv_capacity(cached + 1)
            if capacity != held:
                stage.arrange(0, 1, capacity, [0])
                held = capacity
            stage.decode(0, [Row(cached, PROMPT - 1, PROMPT - 2)], capacity, hidden[:1])
        stage.drop(0)
        return min(most, ANSWER)

    answer(ANSWER)  # compiles the kernels of every shape
    print(f"{backend_name}, {blocks} blocks, measured; MiB")
    print("| steps | resident | ms a step since |\n| --- | --- | --- |")
    done, quarter, started, last = 0, steps // 4, perf_counter(), 0
    show(process, 0, 0.0)
    while done < steps:
        done += answer(min(steps - done, (done // quarter + 1) * quarter - done))
        if done % quarter == 0:
            show(process, done, (perf_counter() - started) * 1000 / (done - last))
            started, last = perf_counter(), done


def show(process: psutil.Process, steps: int, step_ms: float) -> None:
    resident = process.memory_info().rss / 2**20
    print(f"| {steps} | {resident:.1f} | {step_ms:.1f} |", flush=True)


if __name__ == "__main__":
    main()
