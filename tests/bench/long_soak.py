"""An hour of mixed requests, clients that leave and processes that are killed; what is left of it.

`python -m tests.bench.long_soak --seconds 3600 --kill-every 240` asks a server with the tiny model
for greedy and sampled answers, streamed and whole, compares each with the one it gave alone, lets
some clients leave, and kills the engine and every stage's worker in turn. Prints a row per process:
resident memory and open files at the start, in the middle and at the end, each the median of
samples shortly before a kill; then what is left in shared memory. Ends with 1 after a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import threading
import time
from collections import Counter, defaultdict

import httpx
import psutil

from tests.support.server import Server, running_server
from tests.support.tiny import questions
from tests.support.victims import Told, asked, engine_of, shared_memory, workers_of

LEAVERS, SAMPLED, WHOLE = 0.2, 0.3, 0.3  # shares of requests
SETTLED = 0.75  # of the time between two kills, after which processes are weighed


class Soak:
    """Requests, their expected answers, and what went wrong."""

    def __init__(self, server: Server, texts: list[str]) -> None:
        self.server = server
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.ended = threading.Event()
        self._bodies = [
            asked(text, max_tokens=64, **fields)
            for text in texts
            for fields in ({}, {"temperature": 0.8, "seed": 7, "top_p": 0.9})
        ]
        self._expected = [self._whole(body) for body in self._bodies]

    def _whole(self, body: dict[str, object]) -> str:
        answer = self.server.client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def client(self, seed: int, pause_seconds: float) -> None:
        """Ask until the end, with pauses."""
        rng = random.Random(seed)
        with httpx.Client(base_url=self.server.url, timeout=120) as http:
            while not self.ended.wait(rng.uniform(0, 2 * pause_seconds)):
                number = 2 * rng.randrange(len(self._bodies) // 2) + (rng.random() < SAMPLED)
                try:
                    self._one(http, rng, number)
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.faults.append(f"{self._bodies[number]['messages']}: {error!r}")

    def _one(self, http: httpx.Client, rng: random.Random, number: int) -> None:
        body, expected = self._bodies[number], self._expected[number]
        if rng.random() < WHOLE:
            answer = http.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            shown, kind = answer.json()["choices"][0]["message"]["content"], "whole"
        else:
            leave_after = rng.randint(2, 8) if rng.random() < LEAVERS else 0
            shown, left = self._stream(http, body, leave_after)
            kind = "left" if left else "streamed"
            if left:
                expected = expected[: len(shown)]
        self.counts[kind] += 1
        if shown != expected:
            self.faults.append(f"{body['messages']}: got {shown!r}, alone it was {expected!r}")

    def _stream(
        self, http: httpx.Client, body: dict[str, object], leave_after: int
    ) -> tuple[str, bool]:
        told = Told()
        with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
            response.raise_for_status()
            for number, line in enumerate(response.iter_lines()):
                told.hear(line)
                if leave_after and number >= 2 * leave_after and not told.done:
                    return told.text, True
        if told.faults or not told.done:
            self.faults.append(f"a stream ended early: {told.faults}")
        return told.text, False


def weigh(server: Server) -> dict[str, tuple[int, int]]:
    """Resident bytes and open files of every process, by its part."""
    engine = engine_of(server)
    parts = {"server": psutil.Process(server.process.pid)}
    if engine is not None:
        parts["engine"] = engine
        parts |= {f"stage {number}": one for number, one in enumerate(workers_of(server))}
    found = {}
    for name, process in parts.items():
        with contextlib.suppress(psutil.Error):  # it has just ended
            found[name] = process.memory_info().rss, process.num_fds()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seconds", 3600), ("kill-every", 240), ("clients", 4), ("slots", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pause", type=float, default=0.5, help="Seconds between a client's asks.")
    given = parser.parse_args()
    before = shared_memory()
    texts = [one["question"] for one in questions() if not one["history"]][:30]
    stages = ("--vram", "11", "--gpu-blocks", "5")
    with running_server("--slots", str(given.slots), *stages) as server:
        soak = Soak(server, texts)
        threads = [
            threading.Thread(target=soak.client, args=(seed, given.pause))
            for seed in range(given.clients)
        ]
        for thread in threads:
            thread.start()
        samples = run(server, given.seconds, given.kill_every, soak)
        soak.ended.set()
        for thread in threads:
            thread.join()
    print(f"answers (measured): {dict(soak.counts)}")
    print("| process | resident MiB: start, middle, end | growth | open files |")
    print("| --- | --- | --- | --- |")
    for name, found in samples.items():
        third = max(1, len(found) // 3)
        middle = len(found) // 2 - third // 2
        cuts = (found[:third], found[middle : middle + third], found[-third:])
        rss = [statistics.median(one[0] for one in cut) for cut in cuts]
        files = [statistics.median(one[1] for one in cut) for cut in cuts]
        mib = ", ".join(f"{one / (1 << 20):.1f}" for one in rss)
        counts = ", ".join(f"{one:.0f}" for one in files)
        print(f"| {name} | {mib} | {rss[-1] / rss[0] - 1:+.1%} | {counts} |")
    left = shared_memory() - before  # of no other server, where none ran beside this
    print(f"left in shared memory: {sorted(left) or 'nothing'}; {len(soak.faults)} faults")
    for fault in soak.faults[:20]:
        print(f"FAULT {fault}")
    if soak.faults or left:
        raise SystemExit(1)


def run(
    server: Server, seconds: int, kill_every: int, soak: Soak
) -> dict[str, list[tuple[int, int]]]:
    """Kill in turn until the time is up; samples of every process."""
    samples: dict[str, list[tuple[int, int]]] = defaultdict(list)
    began = last_kill = time.monotonic()
    kills = 0
    while time.monotonic() - began < seconds:
        time.sleep(2)
        since = time.monotonic() - last_kill
        if since < SETTLED * kill_every:
            continue
        for name, sample in weigh(server).items():
            samples[name].append(sample)
        if since >= kill_every:
            engine = engine_of(server)
            victims = workers_of(server) + ([engine] if engine else [])
            if victims:
                victims[kills % len(victims)].kill()
                kills += 1
                soak.counts["kills"] += 1
            last_kill = time.monotonic()
    return samples


if __name__ == "__main__":
    main()
