"""Many clients on a few slots for minutes: no lost or crossed streams, flat memory, equal sums.

`python -m tests.bench.service_soak --seconds 300 --clients 8 --slots 4` prints figures, all
measured, and ends with 1 when an answer differs from the one that the same question got alone, when
memory grew by more than a tenth after the first minute, or when the server counted other answers
than the clients.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import psutil

from tests.support.server import Server, running_server
from tests.support.tiny import questions

_LEAVERS = 0.2  # share of streams that the client leaves after some tokens


@dataclass
class Tally:
    """What all clients saw; guarded by its lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter)
    first_token_seconds: list[float] = field(default_factory=list)
    health_gaps: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def body(text: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "max_tokens": 64, **fields}


def solo(server: Server, texts: list[str]) -> dict[str, tuple[str, int]]:
    """Each question's answer and number of tokens, asked alone."""
    answers = {}
    for text in texts:
        answer = server.client.post("/v1/chat/completions", json=body(text)).json()
        count = answer["usage"]["completion_tokens"]
        answers[text] = (answer["choices"][0]["message"]["content"], count)
    return answers


def client(
    server: Server, expected: dict[str, tuple[str, int]], seed: int, end: float, tally: Tally
) -> None:
    rng = random.Random(seed)
    texts = list(expected)
    with httpx.Client(base_url=server.url, timeout=300) as http:
        while time.monotonic() < end:
            text = rng.choice(texts)
            leave_after = rng.randint(1, 6) if rng.random() < _LEAVERS else None
            try:
                one_stream(http, text, expected[text][0], leave_after, tally)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                with tally.lock:
                    tally.faults.append(f"{text}: {error!r}")


def one_stream(
    http: httpx.Client, text: str, expected: str, leave_after: int | None, tally: Tally
) -> None:
    shown, chunks, done = "", 0, False
    started, first = time.perf_counter(), None
    document = body(text, stream=True, stream_options={"include_usage": True})
    tokens = 0
    with http.stream("POST", "/v1/chat/completions", json=document) as response:
        if response.status_code == 429:
            with tally.lock:
                tally.counts["refused"] += 1
            time.sleep(0.05)
            return
        response.raise_for_status()
        for line in response.iter_lines():
            if line == "data: [DONE]":
                done = True
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            for choice in chunk["choices"]:
                shown += choice["delta"].get("content") or ""
            chunks += 1
            first = first or time.perf_counter()
            if chunks == leave_after:
                break
    left = leave_after is not None and not done
    with tally.lock:
        tally.counts["left" if left else "whole"] += 1
        tally.counts["tokens of whole answers"] += tokens
        if first is not None:
            tally.first_token_seconds.append(first - started)
        if (not left and (shown != expected or not done)) or not expected.startswith(shown):
            tally.faults.append(f"{text}: got {shown!r}, alone it was {expected!r}")


def watch(server: Server, end: float, tally: Tally, memory: list[tuple[float, int]]) -> None:
    """Ask /health all the time and weigh the process tree every second."""
    root = psutil.Process(server.process.pid)
    last_weighed = 0.0
    began = time.monotonic()
    with httpx.Client(base_url=server.url, timeout=60) as http:
        while time.monotonic() < end:
            before = time.perf_counter()
            http.get("/health").raise_for_status()
            tally.health_gaps.append(time.perf_counter() - before)
            if time.monotonic() - last_weighed > 1:
                last_weighed = time.monotonic()
                weight = sum(
                    one.memory_full_info().pss for one in [root, *root.children(recursive=True)]
                )
                memory.append((time.monotonic() - began, weight))
            time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seconds", 300), ("clients", 8), ("slots", 4), ("questions", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    texts = [one["question"] for one in questions() if not one["history"]][: given.questions]
    tally, memory = Tally(), list[tuple[float, int]]()
    with running_server("--slots", str(given.slots)) as server:
        expected = solo(server, texts)
        tokens_before = server.metric("tokens_total")
        answers_before = server.metric("answers_total")
        end = time.monotonic() + given.seconds
        threads = [
            threading.Thread(target=client, args=(server, expected, seed, end, tally))
            for seed in range(given.clients)
        ]
        threads.append(threading.Thread(target=watch, args=(server, end, tally, memory)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.wait_for("slots_busy", 0)
        counted = server.metric("answers_total") - answers_before
        tokens = server.metric("tokens_total") - tokens_before
    report(tally, memory, counted, tokens, given.seconds)


def report(
    tally: Tally, memory: list[tuple[float, int]], counted: float, tokens: float, seconds: int
) -> None:
    asked = tally.counts["whole"] + tally.counts["left"]
    early = [weight for at, weight in memory if at < min(60, seconds / 3)]
    late = [weight for at, weight in memory if at > seconds * 0.8]
    grown = (max(late) / max(early) - 1) if early and late else 0.0
    gaps, firsts = sorted(tally.health_gaps), sorted(tally.first_token_seconds)
    print(f"answers (measured): {dict(tally.counts)}; the server counted {counted:.0f}")
    print(f"tokens of prompts and answers by the server: {tokens:.0f}, {tokens / seconds:.1f}/s")
    print(f"time to first event: median {firsts[len(firsts) // 2]:.3f} s, most {firsts[-1]:.3f} s")
    print(
        f"/health: {len(gaps)} answers, median {gaps[len(gaps) // 2] * 1000:.1f} ms,"
        f" 99% {gaps[len(gaps) * 99 // 100] * 1000:.1f} ms, largest {gaps[-1] * 1000:.1f} ms"
    )
    print(f"memory (PSS): {max(early) >> 20} MiB early, {max(late) >> 20} MiB late, {grown:+.1%}")
    for fault in tally.faults[:20]:
        print(f"FAULT {fault}")
    print(f"{len(tally.faults)} faults")
    # A client that leaves while it waits has no slot yet, so the server may count fewer of those.
    sums_agree = tally.counts["whole"] <= counted <= asked
    if tally.faults or grown > 0.1 or not sums_agree:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
