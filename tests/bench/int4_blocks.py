"""Error against speed of int4 at each block size: a full-width block, checked and timed.

`python -m tests.bench.int4_blocks FOLDER` makes a one-block ChatGLM checkpoint of hidden size 4,096
with random weights in FOLDER, exports it at 32, 64 and 128 weights per scale, compares each with
the checkpoint's weights and times decode steps of one row, interleaved. Prints a Markdown table.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import click
import numpy as np

from runtime.backends.mnn import MnnBackend
from runtime.bundle import open_bundle, select_variant
from runtime.export.check import check_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.rotary import Rotary
from runtime.stage import Stage, Step
from runtime.step_inputs import Row
from scheduler.units import MIB
from tests.bench.wide_bundle import write_wide_checkpoint
from tests.support.chatglm_checkpoint import Shape

SHAPE = Shape(hidden=4096, heads=32, blocks=1, vocab=2048)
SIZES = (32, 64, 128)
CACHED = 64
COLUMNS = ("query_key_value", "dense", "up", "down", "keys", "values", "y")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rounds", default=9, show_default=True)
@click.option("--steps", default=20, show_default=True, help="In each round.")
def main(folder: Path, rounds: int, steps: int) -> None:
    """Print errors and times of int4 at every block size."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        write_wide_checkpoint(checkpoint, SHAPE)
    errors, files, stages = {}, {}, {}
    for size in SIZES:
        bundle = folder / f"int4-block{size}"
        if not bundle.exists():
            export_bundle(ExportRequest(checkpoint, bundle, ("int4",), weight_block=size))
        errors[size] = check_bundle(checkpoint, bundle).parts[0].errors
        manifest = open_bundle(bundle).manifest
        variant = select_variant(manifest, "block_0", "mnn", "int4").variant
        files[size] = variant.size_bytes
        stages[size] = stage_of(open_bundle(bundle).file(variant.files[0]))
    milliseconds = timed(stages, rounds, steps)
    print(f"| weights per scale | file MiB | decode ms | spread | {' | '.join(COLUMNS)} |")
    print("| --- " * (len(COLUMNS) + 4) + "|")
    for size in SIZES:
        found = sorted(milliseconds[size])
        middle = statistics.median(found)
        cells = " | ".join(f"{errors[size][name]:.2%}" for name in COLUMNS)
        print(
            f"| {size} | {files[size] / MIB:.1f} | {middle:.2f} |"
            f" {(found[-1] - found[0]) / middle:.0%} | {cells} |"
        )


def stage_of(path: Path) -> Stage:
    """A stage that holds this one block on the CPU."""
    backend = MnnBackend("cpu", os.cpu_count() or 1, SHAPE.heads, SHAPE.hidden // SHAPE.heads)
    backend.load_block(path)
    return Stage(backend, Rotary("two_halves", SHAPE.hidden // SHAPE.heads), 256)


def timed(stages: dict[int, Stage], rounds: int, steps: int) -> dict[int, list[float]]:
    """Median milliseconds of a step in each round, block sizes taking turns."""
    prompt = np.random.default_rng(0).standard_normal((1, CACHED, SHAPE.hidden), np.float32)
    for stage in stages.values():
        stage.forward(Step((Row(0, CACHED - 1, CACHED - 2),), CACHED), prompt)
    milliseconds: dict[int, list[float]] = {size: [] for size in stages}
    for _ in range(rounds):
        for size, stage in stages.items():
            taken = []
            for number in range(steps):
                step = Step((Row(CACHED + number, CACHED - 1, CACHED - 2),), 1)
                started = time.perf_counter()
                stage.forward(step, prompt[:, :1])
                taken.append(1000 * (time.perf_counter() - started))
            milliseconds[size].append(statistics.median(taken[2:]))
    return milliseconds


if __name__ == "__main__":
    main()
