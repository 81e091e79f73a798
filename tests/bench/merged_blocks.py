"""Are the blocks of a stage faster as one session than as a session each? One decode step of both.

`python -m tests.bench.merged_blocks` exports the tiny model, joins its blocks into one graph, and
times a step behind 60 tokens on ort:cpu and on ort:webgpu (the driver in software of
`tests.support.webgpu`), taking turns. Everything a step reads lies on the device already.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import onnx
from onnx import compose

from runtime.backends import ort_graphs
from runtime.backends.ort_session import open_session
from runtime.bundle import open_bundle, select_variant
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.support import webgpu
from tests.support.tiny import TINY_CHECKPOINT

STEADY = ("mask", "cos", "sin")


@click.command()
@click.option("--blocks", default=4, show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--inside", nargs=2, hidden=True)
def main(blocks: int, rounds: int, inside: tuple[str, str] | None) -> None:
    """Print milliseconds of a step: least and median."""
    if inside is not None:
        measure(Path(inside[0]), inside[1], blocks, rounds)
        return
    print("| backend | sessions | least ms | median ms |\n" + "| --- " * 4 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_bundle(ExportRequest(TINY_CHECKPOINT, bundle, ("fp32",), engines=("ort",)))
        for kind in ("cpu", "webgpu"):
            words = ["tests.bench.merged_blocks", *sys.argv[1:], "--inside", str(bundle), kind]
            environment = os.environ | webgpu.environment()
            subprocess.run([sys.executable, "-m", *words], env=environment, check=True)


def measure(path: Path, kind: str, blocks: int, rounds: int) -> None:
    """Time both in this process."""
    bundle = open_bundle(path)
    geometry = bundle.manifest.geometry
    parts = []
    for number in range(blocks):
        variant = select_variant(bundle.manifest, f"block_{number}", "ort", "fp32").variant
        parts.append(onnx.load(str(bundle.file(variant.files[0]))))
    heads, dim, width = geometry.kv_heads, geometry.head_dim, geometry.hidden_size
    random = np.random.default_rng(0)
    shapes = {
        one.name: [d.dim_value for d in one.type.tensor_type.shape.dim]
        for one in parts[0].graph.input
    }
    made = {
        "x": (1, 1, width),
        "mask": (1, 1, 1, 65),
        "cos": (1, shapes["cos"][1] or 1, 1, shapes["cos"][-1]),
        "sin": (1, shapes["sin"][1] or 1, 1, shapes["sin"][-1]),
        "past_k": (1, heads, dim, 64),
        "past_v": (1, heads, 64, dim),
    }
    copy = open_session(ort_graphs.copies({name: len(one) for name, one in made.items()}), kind, 1)
    binding = copy.io_binding()
    for name, shape in made.items():
        binding.bind_cpu_input(name, random.standard_normal(shape).astype(np.float32) * 0.1)
        binding.bind_output(f"on_device.{name}", kind, 0)
    copy.run_with_iobinding(binding)
    values = dict(zip(made, binding.get_outputs(), strict=True))
    alone = [open_session(one.SerializeToString(), kind, 1) for one in parts]
    together = open_session(joined(parts).SerializeToString(), kind, 1)

    def run(session: Any, given: dict[str, Any]) -> Any:
        bound = session.io_binding()
        for name, value in given.items():
            bound.bind_ortvalue_input(name, value)
        for one in session.get_outputs():
            bound.bind_output(one.name, kind, 0)
        session.run_with_iobinding(bound)
        found = bound.get_outputs()
        return found[[one.name for one in session.get_outputs()].index("y")]

    def separate() -> Any:
        x = values["x"]
        for session in alone:
            x = run(session, values | {"x": x})
        return x.numpy()

    def merged() -> Any:
        given = {
            name: values[name.split("/")[-1]] for name in [i.name for i in together.get_inputs()]
        }
        return run(together, given).numpy()

    error = np.abs(separate() - merged()).max()
    assert error < 1e-4, error
    times: dict[str, list[float]] = {"a session each": [], "one session": []}
    for _ in range(rounds):
        for name, step in (("a session each", separate), ("one session", merged)):
            started = perf_counter()
            step()
            times[name].append(1000 * (perf_counter() - started))
    for name, found in times.items():
        what = f"{name}, {blocks} blocks"
        print(f"| ort:{kind} | {what} | {min(found):.2f} | {statistics.median(found):.2f} |")


def joined(parts: list[onnx.ModelProto]) -> onnx.ModelProto:
    """One graph of these blocks: mask and rotary tables once, a cache for each block."""
    whole = onnx.ModelProto()
    whole.CopyFrom(parts[0])
    graph, inputs = onnx.GraphProto(name="blocks"), {}
    for number, part in enumerate(parts):
        one = compose.add_prefix(part, f"{number}/").graph
        names = {f"{number}/{name}": name for name in STEADY}
        names[f"{number}/x"] = f"{number - 1}/y" if number else "x"
        if number == len(parts) - 1:
            names[f"{number}/y"] = "y"
        for node in one.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*one.input, *one.output):
            value.name = names.get(value.name, value.name)
        inputs |= {value.name: value for value in one.input if not value.name.endswith("/y")}
        graph.node.extend(one.node)
        graph.initializer.extend(one.initializer)
        graph.output.extend(value for value in one.output if not value.name.endswith("/y"))
    graph.input.extend(inputs.values())
    whole.graph.CopyFrom(graph)
    return whole


if __name__ == "__main__":
    main()
