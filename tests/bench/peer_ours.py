"""glm-plan as a contender: `python -m tests.bench.peer_ours BUNDLE`, the engine as users get it.

Requests go in through `Engine.submit`. Between commands the engine's thread waits where it hands
over a token, so that a long prompt is computed once and its answer goes on in every round.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import click

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine
from runtime.launch_here import launches_here
from runtime.sampling import Sampling
from runtime.stream import Stream
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.probe import probe_host
from scheduler.request import PlanRequest
from tests.bench.peer_pipe import Handler, serve
from tests.bench.peer_shape import prompt_ids

KEPT_CONTEXT = 256  # longer prompts are computed once; decoding goes on behind them
LONGEST_ANSWER = 2048


class Gate:
    """Holds the engine's thread behind each token of one stream until steps are let through."""

    def __init__(self, stream: Stream) -> None:
        self._passed: list[float] = []
        self._stream = stream
        self._push = stream.push
        self._steps = threading.Semaphore(0)
        stream.push = self._gated  # type: ignore[method-assign]

    def wait(self, tokens: int = 1) -> None:
        """Wait until so many more tokens have come."""
        for _ in range(tokens):
            if next(self._stream, None) is None:
                raise SystemExit("an answer ended early; its context is too small")

    def step(self, steps: int) -> list[float]:
        """Let steps through; the seconds of each."""
        started = time.perf_counter()
        for _ in range(steps):
            self._steps.release()
        self.wait(steps)
        times = [started, *self._passed[-steps:]] if steps else []
        return [after - earlier for earlier, after in itertools.pairwise(times)]

    def open(self) -> None:
        """Let everything through from now on."""
        self._steps.release(LONGEST_ANSWER)

    def _gated(self, token_id: int) -> None:
        self._passed.append(time.perf_counter())
        self._push(token_id)
        self._steps.acquire()


class Ours:
    """An engine, and the greedy answers, without an end, that it has under way."""

    def __init__(self, engine: Engine, end_ids: frozenset[int]) -> None:
        self._engine = engine
        self._sampling = Sampling(logit_bias=tuple((end, -100.0) for end in end_ids))
        self._streams: list[Stream] = []
        self._gate: Gate | None = None
        self._context = 0

    def decode(self, context: int, tokens: int) -> list[float]:
        """Seconds of each step of one request, `context` tokens cached before the first.

        A prompt of more than KEPT_CONTEXT tokens goes on from where the last command left it.
        """
        if context != self._context or context <= KEPT_CONTEXT:
            self._start([context])
            self._context = context
        assert self._gate is not None
        return self._gate.step(tokens)

    def batch(self, context: int, tokens: int, sequences: int) -> list[float]:
        """Seconds of each step of several requests that have `context` tokens cached on average.

        Those that came first decode while the others' prompts are computed, so they are ahead.
        """
        gate = self._start([context * 3 // 4] * sequences)
        short = context * sequences - sum(
            one.generation.prompt_tokens + len(one.generation.decode) for one in self._streams
        )
        gate.step(max(0, short // sequences))
        seconds = gate.step(tokens)
        self.drop()
        return seconds

    def prefill(self, tokens: int) -> list[float]:
        """Seconds of one prompt, its first token chosen."""
        self.drop()
        stream = self._engine.submit(prompt_ids(tokens), self._sampling, 1)
        for _ in stream:
            pass
        return [stream.generation.first_token_seconds]

    def _start(self, prompts: list[int]) -> Gate:
        self.drop()
        for tokens in prompts:
            self._streams.append(
                self._engine.submit(prompt_ids(tokens), self._sampling, LONGEST_ANSWER)
            )
        # Rows are in order of arrival, so behind the last stream's token a step is complete.
        self._gate = Gate(self._streams[-1])
        self._gate.wait()
        return self._gate

    def drop(self) -> None:
        """End what is under way."""
        if self._gate is not None:
            for stream in self._streams:
                stream.cancel()
            self._gate.open()
            for stream in self._streams:
                for _ in stream:
                    pass
        self._gate, self._streams, self._context = None, [], 0


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--slots", default=1)
@click.option("--context", default=1280)
@click.option("--backend", default="mnn:cpu")
@click.option("--precision", default="int4")
def main(folder: Path, slots: int, context: int, backend: str, precision: Precision) -> None:
    """Serve commands with a bundle."""

    def load() -> tuple[str, dict[str, Handler]]:
        bundle = open_bundle(folder)
        spec = spec_of_bundle(bundle)
        request = PlanRequest(
            spec, cpu_precision=precision, context=context, slots=slots, cpu_backend=backend
        )
        plan = make_plan(request, probe_host())
        launches = launches_here(plan, spec, bundle)
        engine = Engine(bundle, launches, plan.context_tokens, slots=plan.slots)
        ours = Ours(stack.enter_context(engine), bundle.manifest.end_ids)
        stack.callback(ours.drop)
        about = f"{precision}, {launches[0].backend}, {launches[0].threads} threads, {slots} slots"
        handlers: dict[str, Handler] = {"decode": ours.decode, "prefill": ours.prefill}
        return about, handlers | ({"batch": ours.batch} if slots > 1 else {})

    with ExitStack() as stack:
        serve(load)


if __name__ == "__main__":
    main()
