"""Workers killed at random moments under load, and what clients notice of it.

`python -m tests.bench.kill_workers --kills 100` asks the tiny GLM and a small random Llama, at fp32
and int8 and in two stages, eight questions at a time, half of them greedy and half sampled, in four
slots. It kills a random stage's worker at a random moment of each round, sometimes a second one
while the first is being replaced, and compares every answer with the undisturbed one. Prints
measured seconds from a kill to the next token that any client got (recovery), to the next token of
each answer that was under way (pause), how often requests were replayed, and how many answers
differed or never came. `--signal STOP` lets workers hang instead. Exit code 1 if any differed.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click

from runtime.engine import Engine, Stream
from runtime.slots import common
from runtime.supervision import Supervision
from scheduler.plan import Precision
from tests.support.answers import Answers, small_bundle
from tests.support.engines import start_engine

CASES: tuple[tuple[str, Precision], ...] = (
    ("tiny", "fp32"),
    ("tiny", "int8"),
    ("llama", "fp32"),
    ("llama", "int8"),
)
SIGNALS = ("KILL", "SEGV", "ABRT", "STOP")
LENGTHS = (4, 11, 90, 7, 19, 2, 40, 150)
NEW_TOKENS = 60
SECOND_KILL = 0.25  # of the rounds
MOST_SECONDS = 120.0
"""An answer that takes longer is counted as one that never came."""


@dataclass
class Counted:
    """What one case showed."""

    kills: int = 0
    answers: int = 0
    replays: int = 0
    differing: int = 0
    never: int = 0
    recoveries: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def add(self, other: Counted) -> None:
        """Count both together."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def line(self, name: str) -> str:
        """A row of a Markdown table."""
        found = [f"{statistics.median(one):.2f} / {max(one):.2f} s" if one else "none"
                 for one in (self.recoveries, self.pauses)]  # fmt: skip
        cells = (name, self.kills, self.answers, *found, self.replays, self.differing, self.never)
        return f"| {' | '.join(map(str, cells))} |"


@click.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--only", default="", help='One case, such as "llama int8".')
@click.option(
    "--signal", "how", type=click.Choice(["KILL", "SEGV", "ABRT", "STOP"]), default="KILL"
)
@click.option("--stall-seconds", default=2.0, show_default=True, help="Until a stage hangs.")
def main(kills: int, seed: int, only: str, how: str, stall_seconds: float) -> None:
    """Print a Markdown table."""
    number = signal.Signals[f"SIG{how}"]
    stall = stall_seconds if how == "STOP" else Supervision().stall_seconds
    total = Counted()
    print("| case | kills | answers | recovery, median / most | pause, median / most | replays |"
          " differing | never came |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    cases = [one for one in CASES if only in ("", " ".join(one))]
    for case, (model, precision) in enumerate(cases):
        wanted = kills * (case + 1) // len(cases) - kills * case // len(cases)
        with tempfile.TemporaryDirectory() as folder:
            bundle = small_bundle(model, precision, Path(folder))
            with start_engine(
                bundle,
                slots=4,
                first_blocks=2,
                precision=precision,
                cores=2,
                supervision=Supervision(
                    most_restarts=kills + 1, pause_seconds=0.0, stall_seconds=stall
                ),
            ) as engine:
                answers = Answers.of(engine, bundle, LENGTHS, NEW_TOKENS)
                counted = run(engine, answers, wanted, random.Random(seed + case), number)
        print(counted.line(f"{model}, {precision}"), flush=True)
        total.add(counted)
    print(total.line("all"), flush=True)
    sys.exit(1 if total.differing or total.never else 0)


def run(
    engine: Engine, answers: Answers, kills: int, chance: random.Random, how: signal.Signals
) -> Counted:
    """Rounds of questions until so many workers were killed."""
    counted = Counted()
    began = time.perf_counter()
    answers.check(answers.ask())
    usual_seconds = time.perf_counter() - began
    while counted.kills < kills:
        streams = answers.ask()
        with ThreadPoolExecutor(len(streams)) as readers:
            reading = [readers.submit(list, stream) for stream in streams]
            times = [kill(engine, chance, how, usual_seconds)]
            if chance.random() < SECOND_KILL and counted.kills + 1 < kills:
                times.append(kill(engine, chance, how, usual_seconds))
            wait(reading, MOST_SECONDS)
            for number, future in enumerate(reading):
                expected = answers.expected[number]
                if not future.done():
                    counted.never += 1
                elif (got := future.result()) != expected:
                    counted.differing += 1
                    told = streams[number].generation
                    click.echo(
                        f"prompt {number} differs after {common(got, expected)} tokens;"
                        f" {told.replays} replays, {told.reused_tokens} tokens reused",
                        err=True,
                    )
            if counted.never:
                for stream in streams:
                    stream.cancel()
        counted.kills += len(times)
        counted.answers += len(streams)
        counted.replays += sum(stream.generation.replays for stream in streams)
        measure(counted, times, streams)
        if counted.never:
            break
    return counted


def kill(engine: Engine, chance: random.Random, how: signal.Signals, within: float) -> float:
    """Send a signal to some worker that is there, some time from now; when that was."""
    time.sleep(chance.uniform(0.0, within))
    while not (pids := engine.pipeline.process_ids):
        time.sleep(0.001)
    when = time.perf_counter()
    os.kill(chance.choice(pids), how)
    return when


def measure(counted: Counted, kills: list[float], streams: list[Stream]) -> None:
    """Add the silences behind each kill.

    A pause lasts longer than a recovery where an answer is replayed behind others.
    """
    tokens = [
        [one.generation.started + seconds for seconds in one.generation.token_seconds]
        for one in streams
    ]
    for number, when in enumerate(kills):
        end = kills[number + 1] if number + 1 < len(kills) else float("inf")
        later = [sorted(one for one in times if when < one < end) for times in tokens]
        merged = [when, *sorted(one for times in later for one in times)]
        gaps = [after - before for before, after in pairwise(merged)]
        if gaps:  # else all answers had ended, or the second kill came before the first token
            counted.recoveries.append(max(gaps))
        counted.pauses += [
            max(b - a for a, b in pairwise([when, *after]))
            for times, after in zip(tokens, later, strict=True)
            if times[0] < when and after
        ]


if __name__ == "__main__":
    main()
