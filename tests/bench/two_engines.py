"""Full-width blocks on ort:cpu and on mnn:cpu, taking turns.

`python -m tests.bench.two_engines FOLDER --rounds 5` makes a block of ChatGLM-6B's geometry with
random weights in FOLDER, stores it for both engines, loads it four times in each, so that no cache
of the processor holds it, and times decode steps behind 16 and 1,024 tokens and prompts of 128 and
512: within ten minutes on two cores. Each engine runs in a process of its own, as stages do, since
MNN's threads belong to the process; the processes take turns. Prints a Markdown table: measured
milliseconds a block, and tokens per second of 28 blocks extrapolated from them.
"""

from __future__ import annotations

import os
import statistics
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any, cast

import click
import numpy as np

from runtime.backends.choose import open_backend
from runtime.calibrate.parts import block_spec
from runtime.calibrate.random_parts import random_block
from runtime.export.block_graph import write_block
from runtime.export.converter import convert
from runtime.export.ort_encode import encode
from runtime.export.ort_encodings import ort_encodings
from runtime.export.request import choose_encodings
from runtime.rotary import Rotary
from runtime.stage import Stage, finished
from runtime.step_inputs import Row
from scheduler.plan import Precision
from scheduler.slots import kv_capacity

SPEC = block_spec(4096)
MODEL_BLOCKS = 28
NAMES = ("mnn:cpu", "ort:cpu")
CASES = {"decode at 16": (16, 1), "decode at 1024": (1024, 1), "prompt of 128": (0, 128)} | {
    "prompt of 512": (0, 512)
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--precision", default="int4", show_default=True)
@click.option("--rows", default=1, show_default=True, help="Decoded together.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--blocks", default=4, show_default=True, help="Loaded in each engine.")
def main(folder: Path, precision: str, rows: int, rounds: int, blocks: int) -> None:
    """Print milliseconds of each case for both engines, and their ratio."""
    context = get_context("spawn")
    pipes = {}
    for name in NAMES:
        path = stored_block(folder, name, cast("Precision", precision))
        ours, theirs = context.Pipe()
        arguments = (name, path, rows, blocks, theirs)
        context.Process(target=serve, args=arguments, daemon=True).start()
        pipes[name] = ours
        pipes[name].recv()  # loaded, alone
        click.echo(f"{name} is loaded", err=True)
    print(
        f"{precision}, {rows} rows, {blocks} blocks, {os.cpu_count()} cores, {rounds} rounds; ms a"
        f" block measured (least, median, most), tok/s of {MODEL_BLOCKS} blocks without lm_head and"
        " hops extrapolated"
    )
    print("| case | mnn:cpu ms | ort:cpu ms | mnn:cpu tok/s | ort:cpu tok/s | ratio of medians |")
    print("| --- " * 6 + "|", flush=True)
    for case, (_, tokens) in CASES.items():
        times: dict[str, list[float]] = {name: [] for name in NAMES}
        for number in range(rounds + 1):
            for name in NAMES:
                pipes[name].send(case)
                taken = pipes[name].recv()
                if number:  # the first round warms up
                    times[name].append(taken)
                    click.echo(f"{case}, {name}: {taken:.2f} ms", err=True)
        mnn, ort = (sorted(times[name]) for name in NAMES)
        rates = [
            1000 * (tokens if tokens > 1 else rows) / (MODEL_BLOCKS * statistics.median(one))
            for one in (mnn, ort)
        ]
        cells = [spread(mnn), spread(ort), *(f"{rate:.2f}" for rate in rates)]
        print(f"| {case} | {' | '.join(cells)} | {rates[1] / rates[0]:.2f} |", flush=True)


def spread(found: list[float]) -> str:
    """Least, median and most."""
    return f"{found[0]:.1f}, {statistics.median(found):.1f}, {found[-1]:.1f}"


def stored_block(folder: Path, name: str, precision: Precision) -> Path:
    """The block as this engine reads it, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = name[:3]
    made = folder / f"{precision}.{'onnx' if engine == 'ort' else 'mnn'}"
    if made.exists():
        return made
    graph = folder / "source" / "block.onnx"
    if not graph.exists():
        graph.parent.mkdir()
        write_block(graph, random_block(SPEC), heads=SPEC.heads, layernorm_epsilon=1e-5)
    if engine == "ort":
        return encode(graph, made, *ort_encodings(SPEC, (precision,), None))[0]
    (encoding,) = choose_encodings(SPEC, (precision,), None)
    return convert(graph, made, encoding, 1, Event())[0]


def serve(name: str, path: Path, rows: int, blocks: int, pipe: Connection) -> None:
    """Time cases as they are asked for: a prompt once, the least of ten steps after another one."""
    threads = len(os.sched_getaffinity(0))
    backend = open_backend(name, threads, SPEC.kv_heads, SPEC.head_dim, False)
    for _ in range(blocks):
        backend.load_block(path)
    stage = Stage(backend, Rotary("two_halves", SPEC.head_dim), 1200)
    random = np.random.default_rng(0)
    hidden = random.standard_normal((1024, SPEC.hidden_size), np.float32)
    for group, cached in enumerate((16, 1024)):
        stage.arrange(group, rows, kv_capacity(cached + 1), [-1] * rows)
        for row in range(rows):
            finished(stage.prefill(group, row, Row(0, cached - 1, cached - 2), hidden[:cached]))
    stage.arrange(2, 1, 512, [-1])

    def once(cached: int, tokens: int) -> float:
        began = time.perf_counter()
        if tokens > 1:
            finished(stage.prefill(2, 0, Row(0, tokens - 1, tokens - 2), hidden[:tokens]))
        else:
            group = 0 if cached == 16 else 1
            asked: Any = [Row(cached, cached - 1, cached - 2)] * rows
            stage.decode(group, asked, kv_capacity(cached + 1), hidden[:rows])
        return 1000 * (time.perf_counter() - began) / blocks

    pipe.send("loaded")
    while True:
        cached, tokens = CASES[pipe.recv()]
        if tokens > 1:
            pipe.send(once(cached, tokens))
            continue
        once(cached, tokens)
        pipe.send(min(once(cached, tokens) for _ in range(10)))


if __name__ == "__main__":
    main()
