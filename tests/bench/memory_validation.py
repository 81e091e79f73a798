"""Planned against real memory, and predicted against real decode time, on full-width blocks.

`python -m tests.bench.memory_validation FOLDER` runs every configuration through the real pipeline
and prints Markdown tables; a bundle of four blocks is made in FOLDER first, in several minutes and
12 GB. Stages planned for a GPU run on the CPU where there is none, and are predicted as such.
`--speed` predicts from the newest `glm-plan calibrate` of this machine, `--backend ort:cpu` runs
all stages on ONNX Runtime instead of MNN. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import psutil

from scheduler.backend_names import engines_of
from scheduler.plan import Precision
from scheduler.units import MIB
from tests.bench.one_run import Question
from tests.bench.wide_bundle import wide_bundle
from tests.support.chatglm_checkpoint import Shape

REPOSITORY = Path(__file__).parents[2]
SHAPE = Shape(hidden=4096, heads=32, blocks=4, vocab=32768, max_context=2048)
NEW_TOKENS = 8
SPEED_STEPS = 32
SAMPLE_SECONDS = 0.002
SAMPLES_PER_LISTING = 50  # finding the processes takes longer than reading their counts
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# GPU precision, CPU precision, GPU blocks of four, context of each slot, slots.
MEMORY: tuple[tuple[Precision, Precision, int, int, int], ...] = (
    ("int4", "int4", 0, 256, 1),
    ("int4", "int4", 0, 1024, 1),
    ("int4", "int4", 2, 2048, 1),
    ("int8", "int8", 0, 1024, 1),
    ("int8", "int8", 2, 2048, 1),
    ("int8", "int8", 3, 512, 1),
    ("fp16", "fp16", 2, 256, 1),
    ("fp16", "fp16", 1, 512, 1),
    ("fp32", "fp32", 0, 256, 1),
    ("fp32", "fp32", 0, 1024, 1),
    ("fp32", "fp32", 2, 2048, 1),
    ("int4", "fp32", 2, 1024, 1),
    ("int4", "int4", 0, 1024, 2),
    ("int4", "int4", 0, 1024, 4),
    ("fp32", "fp32", 0, 1024, 2),
    ("fp32", "fp32", 0, 1024, 4),
)
SPEED: tuple[tuple[Precision, Precision, int, int, int], ...] = (
    ("fp32", "fp32", 0, 128, 1),
    ("int8", "int8", 0, 128, 1),
    ("int8", "int8", 2, 1024, 1),
    ("int4", "int4", 0, 128, 1),
    ("int4", "int4", 2, 1024, 1),
    ("int4", "fp32", 2, 128, 1),
)
MEMORY_HEADINGS = (
    "GPU side",
    "CPU side",
    "split",
    "context",
    "slots",
    "planned MiB",
    "peak MiB",
    "planned is over by",
    "spread",
    "after the run",
    "workers: planned / peak MiB",
)
SPEED_HEADINGS = (
    "GPU side",
    "CPU side",
    "split",
    "context",
    "predicted ms",
    "measured ms",
    "predicted is off by",
    "spread",
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--runs", default=5, show_default=True, help="Of each configuration.")
@click.option("--speed", is_flag=True, help="Compare decode times instead of memory.")
@click.option("--backend", default="mnn:cpu", show_default=True, help="Of all stages.")
@click.option("--row", "rows", type=int, multiple=True, help="Only this row, from 1; repeatable.")
def main(folder: Path, runs: int, speed: bool, backend: str, rows: tuple[int, ...]) -> None:
    """Measure every configuration and print a table, row by row.

    Runs of memory follow one another; those of speed are interleaved, since a machine drifts.
    """
    bundle = wide_bundle(folder, SHAPE, engines_of([backend]))
    chosen = SPEED if speed else MEMORY
    chosen = tuple(one for number, one in enumerate(chosen, 1) if not rows or number in rows)
    questions = [
        Question(
            str(bundle.path),
            gpu,
            cpu,
            blocks,
            context,
            context - steps,
            steps,
            slots,
            speed,
            backend,
        )
        for gpu, cpu, blocks, context, slots in chosen
        for steps in [SPEED_STEPS if speed else NEW_TOKENS]
    ]
    order = [question for question in questions for _ in range(runs)]
    if speed:
        order = questions * runs
    print(
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {backend}, {runs} runs each, medians\n",
        flush=True,
    )
    headings = SPEED_HEADINGS if speed else MEMORY_HEADINGS
    print_row(headings)
    print_row(["---"] * len(headings))
    answers: dict[Question, list[dict[str, Any]]] = defaultdict(list)
    for question in order:
        gathered = answers[question]
        gathered.append(run(question, watch=not speed))
        if len(gathered) == runs:
            print_row((speed_row if speed else memory_row)(question, gathered))


def print_row(cells: Sequence[str]) -> None:
    """A line of a Markdown table, at once."""
    print(f"| {' | '.join(cells)} |", flush=True)


def run(question: Question, watch: bool) -> dict[str, Any]:
    """Run a configuration in a process of its own; adds `peak_bytes` of all its processes.

    Without `watch` nobody looks on, which would slow what is being timed.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.one_run"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(asdict(question)))
    child.stdin.close()
    peak = 0
    tree = psutil.Process(child.pid)
    processes = [tree]
    while watch and child.poll() is None:
        with contextlib.suppress(psutil.Error):
            processes = [tree, *tree.children(recursive=True)]
        for _ in range(SAMPLES_PER_LISTING):
            peak = max(peak, sum(private_bytes(one.pid) for one in processes))
            time.sleep(SAMPLE_SECONDS)
    assert child.stdout is not None
    text = child.stdout.read()
    child.wait()
    if child.returncode:
        raise SystemExit(f"{question} failed with exit code {child.returncode}")
    answer = json.loads(text)
    return answer | {"peak_bytes": peak + answer["shared_bytes"]}


def private_bytes(pid: int) -> int:
    """Resident memory of a process that is neither shared nor a file's; counted, not walked."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        _size, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * PAGE_BYTES
    return 0


def memory_row(question: Question, runs: list[dict[str, Any]]) -> list[str]:
    """Peak of all processes and of each worker, beside the plan; MiB."""
    planned = runs[0]["predicted_bytes"]
    peaks = sorted(one["peak_bytes"] for one in runs)
    peak = statistics.median(peaks)
    after = statistics.median(one["after_steps_bytes"] for one in runs)
    workers = ", ".join(
        f"{stage['predicted_bytes'] / MIB:,.0f} /"
        f" {max(one['stages'][number]['peak_bytes'] for one in runs) / MIB:,.0f}"
        for number, stage in enumerate(runs[0]["stages"])
    )
    return [
        *configuration(question),
        str(question.slots),
        f"{planned / MIB:,.0f}",
        f"{peak / MIB:,.0f}",
        f"{planned / peak - 1:+.1%}",
        f"{(peaks[-1] - peaks[0]) / peak:.1%}",
        f"{after / MIB:,.0f}",
        workers,
    ]


def speed_row(question: Question, runs: list[dict[str, Any]]) -> list[str]:
    """Median step of each run beside the prediction; milliseconds."""
    steps = sorted(one["step_seconds"] for one in runs)
    step = statistics.median(steps)
    predicted = runs[0]["predicted_step_seconds"]
    return [
        *configuration(question),
        f"{1000 * predicted:.1f}",
        f"{1000 * step:.1f}",
        f"{predicted / step - 1:+.1%}",
        f"{(steps[-1] - steps[0]) / step:.0%}",
    ]


def configuration(question: Question) -> list[str]:
    """The first columns of both tables."""
    return [
        question.gpu_precision,
        question.cpu_precision,
        f"{question.gpu_blocks} + {SHAPE.blocks - question.gpu_blocks}",
        str(question.context),
    ]


if __name__ == "__main__":
    main()
