"""Rigs: real pipelines over calibration parts, and the time of single forwards through them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from runtime.bundle_spec import geometry_of
from runtime.calibrate.parts import PartFiles
from runtime.launch import StageLaunch
from runtime.pipeline import Pipeline, StepTime
from runtime.stage import Step
from runtime.step_inputs import Row
from scheduler.model import ModelSpec

MOST_TOKENS = 1100


@dataclass(frozen=True)
class Shot:
    """One kind of forward: rows that hold `cached` tokens each, with `tokens` new ones."""

    rows: int
    cached: int
    tokens: int

    @property
    def is_prompt(self) -> bool:
        """Whether this is a prompt, timed with all that its shape costs, or a decode step."""
        return self.tokens > 1


@dataclass
class Series:
    """Seconds of one shot over the rounds: of a block, of lm_head, and of hops together."""

    block: list[float] = field(default_factory=list)
    lm_head: list[float] = field(default_factory=list)
    hops: list[float] = field(default_factory=list)


class Rig:
    """A pipeline of equal stages, each with `copies` of one block; the last one has lm_head.

    Copies keep the processor's caches from holding what a whole model would not leave there.
    """

    def __init__(
        self,
        spec: ModelSpec,
        parts: PartFiles,
        *,
        threads: int,
        copies: int = 1,
        stages: int = 1,
        backend: str = "mnn:cpu",
    ) -> None:
        launches = [
            StageLaunch(
                device="cpu",
                asked_backend=backend,
                backend=backend,
                cuda_device=None,
                threads=threads,
                block_files=tuple((number, parts.block) for number in range(copies)),
                lm_head_file=parts.lm_head if stage == stages - 1 else None,
            )
            for stage in range(stages)
        ]
        self._copies = copies * stages
        self._hidden_size = spec.hidden_size
        self._random = np.random.default_rng(0)
        self._pipeline = Pipeline(launches, geometry_of(spec, 1e-5), 1, MOST_TOKENS)

    def fire(self, shot: Shot, times: int, series: Series) -> None:
        """Run a shot; a decode step is warmed up first, since only a new shape costs planning."""
        if not shot.is_prompt:
            self._forward(shot)
        for _ in range(times):
            taken = self._forward(shot)
            series.block.append(sum(taken.stage_seconds) / self._copies)
            series.lm_head.append(taken.lm_head_seconds)
            series.hops.append(taken.hop_seconds)

    def _forward(self, shot: Shot) -> StepTime:
        shape = (shot.rows, shot.tokens, self._hidden_size)
        hidden = self._random.standard_normal(shape, dtype=np.float32)
        row = Row(shot.cached, shot.tokens - 1 if shot.is_prompt else 1, 0)
        return self._pipeline.forward(hidden, Step((row,) * shot.rows, shot.tokens))[1]

    def close(self) -> None:
        """End its workers."""
        self._pipeline.close()


def read_ram(threads: int, size_bytes: int) -> float:
    """Bytes per second at which this many threads read memory once (NumPy's maximum of int64)."""
    numbers = np.zeros(size_bytes // 8, np.int64)
    numbers[:] = 1  # a page that was never written needs no memory to be read
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(np.max, np.array_split(numbers, threads)))
        return numbers.nbytes / (time.perf_counter() - started)


def spread(samples: Sequence[float]) -> float:
    """Interquartile range over the median; 0 for fewer than three samples."""
    if len(samples) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle
