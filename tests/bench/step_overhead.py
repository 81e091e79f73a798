"""What a decode step costs beside MNN: our part of every block, and the way between processes.

`python -m tests.bench.step_overhead BUNDLE --precision int4` loads all blocks into this process and
times decode steps with and without what MNN's forwards take; then it times hops of hidden states of
this width through shared memory and pipes, for one token and for a prompt, beside a plain copy.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np

from runtime.backends import mnn
from runtime.bundle import open_bundle, select_variant
from runtime.shared_array import SharedArray
from runtime.stage import Stage
from runtime.step_inputs import Row
from scheduler.plan import Precision

CACHED, CAPACITY = 16, 64


@click.command()
@click.argument("bundle_dir", type=click.Path(path_type=Path))
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8", "int4"]), default="int4")
@click.option("--blocks", default=28, show_default=True, help="At most.")
@click.option("--steps", default=40, show_default=True)
def main(bundle_dir: Path, precision: Precision, blocks: int, steps: int) -> None:
    """Print medians."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    bundle = open_bundle(bundle_dir)
    geometry = bundle.manifest.geometry
    backend = mnn.MnnBackend("cpu", os.cpu_count() or 1, geometry.kv_heads, geometry.head_dim)
    for number in range(min(blocks, geometry.blocks)):
        part = select_variant(bundle.manifest, f"block_{number}", "mnn", precision)
        backend.load_block(bundle.file(part.variant.files[0]))
    stage = Stage(backend, geometry.turning, 256)
    for rows in (1, 2, 4):
        whole, ours, later = decode(stage, rows, geometry.hidden_size, steps)
        print(
            f"{rows} rows: step {1000 * whole:.2f} ms, ours {1000 * ours:.3f} ms,"
            f" after the answer {1000 * later:.3f} ms",
            file=out,
            flush=True,
        )
    for tokens in (1, 512):
        one_way, copy = hop(tokens * geometry.hidden_size, steps)
        size = tokens * geometry.hidden_size * 4
        print(
            f"hop of {size} bytes: {1e6 * one_way:.0f} us, {size / one_way / 1e9:.2f} GB/s;"
            f" two plain copies {1e6 * copy:.0f} us",
            file=out,
            flush=True,
        )


def decode(stage: Stage, rows: int, width: int, steps: int) -> tuple[float, float, float]:
    """Seconds of a step, of what in it is not MNN's forwards, and of what follows; medians."""
    stage.arrange(0, rows, CAPACITY, [-1] * rows)
    hidden = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    forwards = 0.0
    original = mnn._Block.run

    def timed(block: mnn._Block, inputs: list[object]) -> list[object]:
        nonlocal forwards
        began = time.perf_counter()
        outputs = original(block, inputs)
        forwards += time.perf_counter() - began
        return outputs

    mnn._Block.run = timed  # type: ignore[method-assign]
    taken = []
    for step in range(steps + 3):
        forwards = 0.0
        began = time.perf_counter()
        stage.decode(0, [Row(CACHED + step % 8, CACHED - 1, CACHED - 2)] * rows, CAPACITY, hidden)
        ended = time.perf_counter()
        stage.settle()
        whole = ended - began
        taken.append((whole, whole - forwards, time.perf_counter() - ended))
    mnn._Block.run = original  # type: ignore[method-assign]
    stage.drop(0)
    whole, ours, later = (statistics.median(column) for column in zip(*taken[3:], strict=True))
    return whole, ours, later


def hop(numbers: int, times: int) -> tuple[float, float]:
    """Seconds from one process's array into another's, and of two copies in this process.

    Both touch as many bytes, so that caches help neither more.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    there, back = SharedArray.create(numbers), SharedArray.create(numbers)
    child = context.Process(target=echo, args=(theirs, there.name, back.name, numbers))
    child.start()
    chain = [np.ones(numbers, np.float32) for _ in range(5)]
    source, target = chain[0], chain[-1]

    def round_trip() -> None:
        there.view(numbers)[...] = source
        ours.send_bytes(b"x" * 64)
        ours.recv_bytes()
        target[...] = back.view(numbers)

    def copies() -> None:
        for before, after in itertools.pairwise(chain):
            after[...] = before

    results = [median_time(one, times) for one in (round_trip, copies)]
    ours.close()
    child.join()
    for array in (there, back):
        array.close()
    return results[0] / 2, results[1] / 2


def echo(pipe: Connection, there: str, back: str, numbers: int) -> None:
    """Copy what comes in to memory of this process, and from there back."""
    incoming, outgoing = SharedArray.attach(there), SharedArray.attach(back)
    held = np.empty(numbers, np.float32)
    try:
        while True:
            pipe.recv_bytes()
            held[...] = incoming.view(numbers)
            outgoing.view(numbers)[...] = held
            pipe.send_bytes(b"x" * 64)
    except EOFError:
        sys.exit(0)


def median_time(action: Callable[[], None], times: int) -> float:
    taken = []
    for _ in range(times + 5):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[5:])


if __name__ == "__main__":
    main()
