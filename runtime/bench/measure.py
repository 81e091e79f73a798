"""Runs of one case on a loaded engine, and the figures that they give."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.bench.document import Case, Figure, StageFigure
from runtime.engine import Engine
from runtime.pipeline import StepTime
from runtime.sampling import Sampling
from runtime.stream import Generation
from scheduler.errors import UserInputError

MS = 1000.0


@dataclass(frozen=True)
class Question:
    """A case to measure, in tokens and requests."""

    prompt_tokens: int
    output_tokens: int
    requests: int


@dataclass(frozen=True)
class _Run:
    """One run: the requests' records, and the steps in which all of them decoded."""

    generations: list[Generation]
    together: list[StepTime]
    seconds: float
    tokens: int


def measure_case(
    engine: Engine, vocab_size: int, question: Question, runs: int, step_bytes: int
) -> Case:
    """Warm up, run, and take medians; `step_bytes` are read by one decode step.

    Answers don't end at the model's end token. Raises UserInputError when prompt and answer do not
    fit the context.
    """
    needed = question.prompt_tokens + question.output_tokens
    if needed > engine.context_tokens:
        raise UserInputError(
            f"a prompt of {question.prompt_tokens} tokens and an answer of"
            f" {question.output_tokens} need a context of {needed}; it is {engine.context_tokens},"
            " plan a larger --context."
        )
    _run(engine, vocab_size, question, 0)
    done = [_run(engine, vocab_size, question, number + 1) for number in range(runs)]
    first = [run.generations[0] for run in done]

    def of_steps(value: Callable[[StepTime], float]) -> Figure:
        return figure([statistics.median(map(value, run.together)) for run in done])

    def of_prompts(value: Callable[[StepTime], float]) -> Figure:
        return figure([value(one.prefill) for one in first if one.prefill is not None])

    def sampler(run: _Run) -> float:
        chosen = sum(len(one.token_ids) for one in run.generations)
        return MS * sum(one.sampler_seconds for one in run.generations) / chosen

    return Case(
        prompt_tokens=question.prompt_tokens,
        output_tokens=question.output_tokens,
        requests=question.requests,
        runs=runs,
        time_to_first_token_seconds=figure([one.first_token_seconds for one in first]),
        prefill_tokens_per_second=of_prompts(lambda s: question.prompt_tokens / s.total_seconds),
        decode_tokens_per_second=figure([run.tokens / run.seconds for run in done]),
        step_ms=of_steps(lambda s: MS * s.total_seconds),
        stages=[
            StageFigure(
                device=launch.device,
                backend=launch.backend,
                blocks=launch.block_span,
                decode_ms=of_steps(lambda s, n=number: MS * s.stage_seconds[n]),  # type: ignore[misc]
                prefill_ms=of_prompts(lambda s, n=number: MS * s.stage_seconds[n]),  # type: ignore[misc]
            )
            for number, launch in enumerate(engine.pipeline.launches)
        ],
        lm_head_ms=of_steps(lambda s: MS * s.lm_head_seconds),
        hop_ms=of_steps(lambda s: MS * s.hop_seconds),
        sampler_ms=figure([sampler(run) for run in done]),
        read_gbps=of_steps(lambda s: step_bytes / s.total_seconds / 1e9),
    )


def _run(engine: Engine, vocab_size: int, question: Question, seed: int) -> _Run:
    """Let all requests decode `output_tokens` together: early ones go on until the last is done."""
    random = np.random.default_rng(seed)
    streams = []
    for number in range(question.requests):
        prompt = random.integers(vocab_size, size=question.prompt_tokens).tolist()
        last = number == question.requests - 1
        most = question.output_tokens if last else engine.context_tokens
        streams.append(engine.submit(prompt, Sampling(), most, ignore_end=True))
    for _ in streams[-1]:
        pass
    for stream in streams:
        stream.cancel()
        for _ in stream:
            pass
    records = [stream.generation for stream in streams]
    last_record = records[-1]
    begins = last_record.started + last_record.first_token_seconds
    ends = last_record.started + last_record.total_seconds
    tokens = sum(
        begins < one.started + seconds <= ends for one in records for seconds in one.token_seconds
    )
    return _Run(records, last_record.decode, ends - begins, tokens)


def figure(values: Sequence[float]) -> Figure:
    """Median and range."""
    middle = statistics.median(values)
    spread = (max(values) - min(values)) / middle if middle else 0.0
    return Figure(median=middle, spread=abs(spread))
