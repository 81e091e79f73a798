"""Planned against real memory, and predicted against real decode time, on full-width blocks.

`python -m tests.bench.memory_validation FOLDER` runs every configuration through the real pipeline
and prints Markdown tables; a bundle of four blocks is made in FOLDER first, in several minutes and
12 GB. Stages planned for a GPU run on the CPU where there is none, and are predicted as such.
`--speed` predicts from the newest `glm-plan calibrate` of this machine. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import psutil

from scheduler.plan import Precision
from scheduler.units import MIB
from tests.bench.one_run import Question
from tests.bench.wide_bundle import wide_bundle
from tests.support.chatglm_checkpoint import Shape

REPOSITORY = Path(__file__).parents[2]
SHAPE = Shape(hidden=4096, heads=32, blocks=4, vocab=32768, max_context=2048)
NEW_TOKENS = 8
SAMPLE_SECONDS = 0.05

# GPU precision, CPU precision, GPU blocks of four, context.
MEMORY: tuple[tuple[Precision, Precision, int, int], ...] = (
    ("int4", "int4", 0, 256),
    ("int4", "int4", 0, 1024),
    ("int4", "int4", 2, 2048),
    ("int8", "int8", 0, 1024),
    ("int8", "int8", 2, 2048),
    ("int8", "int8", 3, 512),
    ("fp16", "fp16", 2, 256),
    ("fp16", "fp16", 1, 512),
    ("fp32", "fp32", 0, 256),
    ("fp32", "fp32", 0, 1024),
    ("fp32", "fp32", 2, 2048),
    ("int4", "fp32", 2, 1024),
)
SPEED: tuple[tuple[Precision, Precision, int, int], ...] = (
    ("fp32", "fp32", 0, 128),
    ("int8", "int8", 0, 128),
    ("int8", "int8", 2, 1024),
    ("int4", "int4", 0, 128),
    ("int4", "int4", 2, 1024),
    ("int4", "fp32", 2, 128),
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--runs", default=5, show_default=True, help="Of each configuration, interleaved.")
@click.option("--speed", is_flag=True, help="Compare decode times instead of memory.")
def main(folder: Path, runs: int, speed: bool) -> None:
    """Measure every configuration and print a table."""
    bundle = wide_bundle(folder, SHAPE)
    chosen = SPEED if speed else MEMORY
    steps = 32 if speed else NEW_TOKENS
    questions = [
        Question(str(bundle.path), gpu, cpu, blocks, context, context - steps, steps)
        for gpu, cpu, blocks, context in chosen
    ]
    answers: list[list[dict[str, Any]]] = [[] for _ in questions]
    with click.progressbar(length=runs * len(questions), file=sys.stderr) as bar:
        for _ in range(runs):
            for question, gathered in zip(questions, answers, strict=True):
                gathered.append(run(question, watch=not speed))
                bar.update(1)
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {runs} runs each, medians\n")
    for line in (speed_table if speed else memory_table)(questions, answers):
        print(line)


def run(question: Question, watch: bool) -> dict[str, Any]:
    """Run a configuration in a process of its own; adds `peak_pss_bytes` of all its processes.

    Without `watch` nobody looks on: walking page tables of gigabytes slows what is being timed.
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
    while watch and child.poll() is None:
        with contextlib.suppress(psutil.Error):
            processes = [tree, *tree.children(recursive=True)]
            peak = max(peak, sum(one.memory_full_info().pss for one in processes))
        time.sleep(SAMPLE_SECONDS)
    assert child.stdout is not None
    text = child.stdout.read()
    child.wait()
    if child.returncode:
        raise SystemExit(f"{question} failed with exit code {child.returncode}")
    answer = json.loads(text)
    return answer | {"peak_pss_bytes": max(peak, answer["after_prompt_bytes"])}


def memory_table(questions: list[Question], answers: list[list[dict[str, Any]]]) -> list[str]:
    """Peak of all processes and of each worker, beside the plan; MiB."""
    lines = [
        "| GPU side | CPU side | split | context | planned MiB | peak PSS MiB | planned is over by"
        " | spread | after the run | workers: planned / peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for question, runs in zip(questions, answers, strict=True):
        planned = runs[0]["predicted_bytes"]
        peaks = sorted(one["peak_pss_bytes"] for one in runs)
        peak = statistics.median(peaks)
        workers = ", ".join(
            f"{stage['predicted_bytes'] / MIB:,.0f} /"
            f" {max(one['stages'][number]['peak_bytes'] for one in runs) / MIB:,.0f}"
            for number, stage in enumerate(runs[0]["stages"])
        )
        after = statistics.median(one["after_steps_bytes"] for one in runs)
        lines.append(
            f"| {question.gpu_precision} | {question.cpu_precision} | {question.gpu_blocks} +"
            f" {SHAPE.blocks - question.gpu_blocks} | {question.context} | {planned / MIB:,.0f} |"
            f" {peak / MIB:,.0f} | {planned / peak - 1:+.1%} |"
            f" {(peaks[-1] - peaks[0]) / peak:.1%} | {after / MIB:,.0f} | {workers} |"
        )
    return lines


def speed_table(questions: list[Question], answers: list[list[dict[str, Any]]]) -> list[str]:
    """Median step of each run beside the prediction; milliseconds."""
    lines = [
        "| GPU side | CPU side | split | context | predicted ms | measured ms | predicted is off by"
        " | spread |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for question, runs in zip(questions, answers, strict=True):
        steps = sorted(one["step_seconds"] for one in runs)
        step = statistics.median(steps)
        predicted = runs[0]["predicted_step_seconds"]
        lines.append(
            f"| {question.gpu_precision} | {question.cpu_precision} | {question.gpu_blocks} +"
            f" {SHAPE.blocks - question.gpu_blocks} | {question.context} | {1000 * predicted:.1f} |"
            f" {1000 * step:.1f} | {predicted / step - 1:+.1%} |"
            f" {(steps[-1] - steps[0]) / step:.0%} |"
        )
    return lines


if __name__ == "__main__":
    main()
