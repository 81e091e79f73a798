"""Memory of a stage over thousands of decode steps: it must not grow.

`python -m tests.bench.decode_growth BUNDLE --backend ort:cpu` runs one stage through the real
pipeline, decodes 2,000 steps behind the same number of cached tokens, and prints what the worker
holds along the way (resident memory that is neither shared nor a file's). Linux only.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.launch import launches_of
from runtime.pipeline import Pipeline
from runtime.stage import Step
from runtime.step_inputs import Row
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from scheduler.units import MIB


def measured(
    folder: Path, backend: str, precision: Precision, cached: int, reports: list[int]
) -> list[int]:
    """Bytes that the worker holds after each of so many steps; ascending."""
    bundle = open_bundle(folder)
    request = PlanRequest(
        spec_of_bundle(bundle), cpu_precision=precision, context=cached + 1, cpu_backend=backend
    )
    launches = launches_of(make_plan(request), bundle, frozenset({backend}), {}, 1)
    width = bundle.manifest.geometry.hidden_size
    hidden = np.random.default_rng(0).standard_normal((1, 1, width), np.float32)
    found, done = [], 0
    pipeline = Pipeline(launches, bundle.manifest.geometry, 1, cached + 1)
    try:
        (pid,) = pipeline.process_ids
        for steps in reports:
            for _ in range(steps - done):
                pipeline.forward(hidden, Step((Row(cached, 1, 0),), 1))
            done = steps
            status = Path(f"/proc/{pid}/status").read_text()
            found.append(1024 * int(status.split("RssAnon:")[1].split()[0]))
    finally:
        pipeline.close()
    return found


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--backend", default="ort:cpu", show_default=True)
@click.option("--precision", default="int4", show_default=True)
@click.option("--cached", default=100, show_default=True, help="Tokens behind each step.")
@click.option("--steps", default=2000, show_default=True)
def main(folder: Path, backend: str, precision: Precision, cached: int, steps: int) -> None:
    """Print the memory of one worker along its steps."""
    reports = sorted({10, 100, steps // 4, steps // 2, steps})
    print(f"{backend}, {precision}, {cached} tokens cached\n\n| steps | MiB |\n| --- | --- |")
    for done, held in zip(
        reports, measured(folder, backend, precision, cached, reports), strict=True
    ):
        print(f"| {done:,} | {held / MIB:.2f} |")


if __name__ == "__main__":
    main()
