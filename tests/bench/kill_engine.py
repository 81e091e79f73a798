"""Kill the engine or a worker of a server again and again, and compare every answer.

`python -m tests.bench.kill_engine --kills 100 --clients 8 --slots 4` prints figures, all measured,
and ends with 1 when an answer differs from the undisturbed one, fails or hangs. A pause is the
longest time between a kill and the next one in which no client got anything.
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.support.server import Server, running_server
from tests.support.tiny import questions
from tests.support.victims import (
    Client,
    Told,
    asked,
    engine_of,
    family,
    shared_memory_of,
    workers_of,
)

_HANG_SECONDS = 120


@dataclass
class Tally:
    """What all clients saw."""

    answers: int = 0
    differing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    events: list[float] = field(default_factory=list)  # when anything came, by the clock


def bodies() -> list[dict[str, Any]]:
    """Greedy and sampled requests, short and long."""
    texts = [one["question"] for one in questions() if not one["history"]][:8]
    long = {str(token): 60.0 for token in range(700, 1200)}
    sampled: dict[str, Any] = {"temperature": 2, "logit_bias": long, "max_tokens": 60}
    return [
        *(asked(text) for text in texts),
        *(asked(text, **sampled, seed=seed) for seed, text in enumerate(texts)),
        *(asked(text, logit_bias={"838": 100.0}, max_tokens=60) for text in texts),
    ]


def ask_on(
    server: Server, expected: list[Told], seed: int, ending: threading.Event, tally: Tally
) -> None:
    """Be one client until the end: ask, and compare."""
    rng, known = random.Random(seed), bodies()
    while not ending.is_set():
        number = rng.randrange(len(known))
        told = Client(server, known[number], lambda: tally.events.append(time.monotonic())).result()
        tally.answers += 1
        if told.faults:
            tally.failed += told.faults
        elif told != expected[number]:
            tally.differing.append(f"{told.text!r} instead of {expected[number].text!r}")


def kill_one(server: Server, rng: random.Random, tally: Tally) -> tuple[str, float] | None:
    """Kill the engine or one worker while tokens flow; who it was, and when."""
    engine, workers = engine_of(server), workers_of(server)
    if engine is None or not workers:
        return None
    name, victim = rng.choice([("engine", engine), ("worker", rng.choice(workers))])
    at = time.monotonic()
    try:
        victim.kill()
        victim.wait(10)
    except psutil.Error:
        return None
    until = at + _HANG_SECONDS
    while time.monotonic() < until:
        time.sleep(0.05)
        lately = sum(one > time.monotonic() - 0.5 for one in tally.events[-60:])
        if time.monotonic() > at + 1 and lately > 20:
            return name, at
    tally.failed.append(f"no token for {_HANG_SECONDS} s after a {name} was killed")
    return name, at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("kills", 100), ("clients", 8), ("slots", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng, tally, ending = random.Random(given.seed), Tally(), threading.Event()
    kills, memory = list[tuple[str, float]](), set[Path]()
    flags = ("--gpu-blocks", "3", "--vram", "4", "--slots", str(given.slots))
    with running_server(*flags, one_core=True) as server:
        expected = [Client(server, body).result() for body in bodies()]
        threads = [
            threading.Thread(
                target=ask_on, args=(server, expected, seed, ending, tally), daemon=True
            )
            for seed in range(given.clients)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        while len(kills) < given.kills and not tally.failed:
            memory |= shared_memory_of(server)
            if (one := kill_one(server, rng, tally)) is not None:
                kills.append(one)
            time.sleep(rng.random() / 4)
        ended = time.monotonic()
        ending.set()
        for thread in threads:
            thread.join(_HANG_SECONDS)
        hung = sum(thread.is_alive() for thread in threads)
        descriptors = psutil.Process(server.process.pid).num_fds()
        print(f"at the end: {server.client.get('/health').json()}")
        print(f"descriptors of the HTTP process: {descriptors}")
        print(f"processes: {len(family(server))}")
    report(tally, kills, ended)
    left = sum(one.exists() for one in memory)
    print(f"{len(tally.differing)} differing, {len(tally.failed)} failed, {hung} hung")
    print(f"{left} of {len(memory)} pieces of shared memory left")
    for text in [*tally.differing, *tally.failed][:10]:
        print(text)
    if tally.differing or tally.failed or hung or left:
        raise SystemExit(1)


def report(tally: Tally, kills: list[tuple[str, float]], ended: float) -> None:
    events = sorted(tally.events)
    print(f"{len(kills)} kills (measured), {tally.answers} answers compared")
    pauses: dict[str, list[float]] = {"engine": [], "worker": []}
    for (name, at), (_, following) in zip(kills, [*kills[1:], ("", ended)], strict=True):
        times = [at, *(one for one in events if at <= one < following)]
        pauses[name].append(max((b - a for a, b in itertools.pairwise(times)), default=0))
    for name, seconds in pauses.items():
        if seconds:
            print(
                f"{name}: {len(seconds)} kills, pause median {median(seconds):.2f} s,"
                f" most {max(seconds):.2f} s"
            )


if __name__ == "__main__":
    main()
