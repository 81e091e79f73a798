"""One stage against two with a core each, both with enough requests to be busy.

`python -m tests.bench.two_stages BUNDLE --precision int4` loads all blocks into one stage with one
thread, into one with two, and into two stages of half the blocks with one thread each. All answer
the same requests in turn, in groups of rows that run at once; prints tokens per second of all
requests together. Wants two cores, and RAM for three times the model.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import replace
from pathlib import Path

import click

from runtime.bundle import Bundle, open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine
from runtime.launch import StageLaunch
from runtime.launch_here import launches_here
from runtime.sampling import Sampling
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.probe import probe_host
from scheduler.request import PlanRequest
from tests.bench.peer_shape import prompt_ids

WARM_UP = 1


@click.command()
@click.argument("bundle_dir", type=click.Path(path_type=Path))
@click.option("--precision", default="int4", show_default=True)
@click.option("--requests", default=4, show_default=True, help="At once; as many slots.")
@click.option("--prompt", default=40, show_default=True, help="Tokens.")
@click.option("--tokens", default=24, show_default=True, help="Of each answer.")
@click.option("--rounds", default=5, show_default=True)
def main(
    bundle_dir: Path, precision: Precision, requests: int, prompt: int, tokens: int, rounds: int
) -> None:
    """Print a Markdown table."""
    bundle = open_bundle(bundle_dir)
    whole = one_stage(bundle, precision, requests)
    contenders = {
        "one stage, one thread": [replace(whole, threads=1)],
        "one stage, two threads": [replace(whole, threads=2)],
        "two stages, a thread each": halves(whole),
    }
    with contextlib.ExitStack() as stack:
        engines = {
            name: stack.enter_context(
                Engine(bundle, launches, prompt + tokens, slots=requests, cores=2)
            )
            for name, launches in contenders.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(WARM_UP + rounds):
            for name, engine in engines.items():
                rate = together(engine, bundle, requests, prompt, tokens)
                if number >= WARM_UP:
                    rates[name].append(rate)
    alone = rates["one stage, one thread"]
    print(f"\n{requests} requests of {prompt} + {tokens} tokens, {precision}\n")
    print("| | tokens per second while decoding | to one stage, one thread |")
    print("| --- | --- | --- |")
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, alone, strict=True)]
        print(f"| {name} | {spread(found)} | {spread(ratios)} |")


def one_stage(bundle: Bundle, precision: Precision, slots: int) -> StageLaunch:
    """All of the bundle on the processor."""
    spec = spec_of_bundle(bundle)
    request = PlanRequest(spec, cpu_precision=precision, context=256, slots=slots)
    plan = make_plan(request, probe_host())
    return launches_here(plan, spec, bundle)[-1]


def halves(whole: StageLaunch) -> list[StageLaunch]:
    """The same blocks in two stages with a thread each, lm_head behind the second."""
    middle = len(whole.block_files) // 2
    first = replace(
        whole, device="first", threads=1, block_files=whole.block_files[:middle], lm_head_file=None
    )
    return [first, replace(whole, threads=1, block_files=whole.block_files[middle:])]


def together(engine: Engine, bundle: Bundle, requests: int, prompt: int, tokens: int) -> float:
    """Tokens per second of all requests, from when the last of them has its first token."""
    ends = tuple((end, -100.0) for end in bundle.manifest.end_ids)
    streams = [
        engine.submit(prompt_ids(prompt), Sampling(logit_bias=ends), tokens)
        for _ in range(requests)
    ]
    for stream in streams:
        next(stream)
    before = sum(len(one.generation.token_ids) for one in streams)
    began = time.perf_counter()
    for stream in streams:
        for _ in stream:
            pass
    after = sum(len(one.generation.token_ids) for one in streams)
    return (after - before) / (time.perf_counter() - began)


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
