"""Cost: the seconds that a placement takes, per token and per prompt, from a few constants.

A stage decodes in `blocks x (weights / rate + KV cache / rate + overhead)`; lm_head and hops are
added. A prompt takes the operations of its tokens where these outweigh the weights. Every constant
says whether it was estimated, calibrated or measured; docs/numbers.md works an example by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

from scheduler.memory import (
    DeviceKind,
    held_block_bytes,
    held_lm_head_bytes,
    value_bytes,
)
from scheduler.model import (
    ModelSpec,
    block_bytes,
    block_flops_per_token,
    block_kv_bytes_per_token,
    lm_head_bytes,
    lm_head_flops,
)
from scheduler.plan import Precision
from scheduler.slots import (
    GROUP_ROWS,
    decode_groups,
    decoded_rows,
    kv_capacity,
    prefill_forwards,
)

SpeedProvenance = Literal["estimated", "calibrated", "measured"]

_HIDDEN_VALUE_BYTES = 4  # hidden states cross stages as fp32


@dataclass(frozen=True)
class WeightSpeed:
    """How fast a device streams weights of one precision through a matrix product at decode.

    `bytes_per_second` with one row. Each further row of the same pass adds `extra_row_share` of the
    first one's time: near 0 where memory is the limit, more where unpacking and arithmetic are.
    Where they are known, `lm_head_bytes_per_second` holds for lm_head (one large matrix and nothing
    small beside it) and `flops_per_second` for prefill with these weights.
    """

    bytes_per_second: float
    extra_row_share: float = 0.0
    lm_head_bytes_per_second: float | None = None
    flops_per_second: float | None = None


@dataclass(frozen=True)
class DeviceSpeed:
    """Effective constants of one device; `source` says in a sentence where they come from.

    `bandwidth_bytes_per_second` holds for weights of any precision not in `weights`, and for the
    KV cache unless `kv_bytes_per_second` is given. `flops_per_second` is what prefill reaches, with
    fp32 weights `fp32_flops_per_second` where that is given.
    `block_overhead_seconds` passes per part (block or lm_head) and forward. `rows_per_pass` is how
    many rows of a group one reading of the weights serves; None: all.
    """

    bandwidth_bytes_per_second: float
    flops_per_second: float
    block_overhead_seconds: float
    provenance: SpeedProvenance
    source: str
    weights: Mapping[Precision, WeightSpeed] = field(default_factory=dict, hash=False)
    kv_bytes_per_second: float | None = None
    rows_per_pass: int | None = None
    fp32_flops_per_second: float | None = None

    def flops(self, precision: Precision) -> float:
        """Operations per second with weights of one precision."""
        known = self.weights.get(precision)
        if known is not None and known.flops_per_second is not None:
            return known.flops_per_second
        own = self.fp32_flops_per_second if precision == "fp32" else None
        return own or self.flops_per_second

    def weight_speed(self, precision: Precision) -> WeightSpeed:
        """The rate for one precision; plain bandwidth where nothing else is known."""
        return self.weights.get(precision) or WeightSpeed(self.bandwidth_bytes_per_second)


@dataclass(frozen=True)
class HopSpeed:
    """What handing hidden states from one stage to the next costs."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, size_bytes: int, forwards: int = 1) -> float:
        """Time of one hop of so many bytes, in one message per forward."""
        return forwards * self.latency_seconds + size_bytes / self.bytes_per_second


@dataclass(frozen=True)
class Speeds:
    """All constants of a host: per device (gpu0, gpu1, ..., cpu) and for hops between stages.

    `backends` holds those of the CPU where another engine than MNN runs it and was measured, by
    backend (``ort:cpu``).
    """

    devices: Mapping[str, DeviceSpeed] = field(hash=False)
    hop: HopSpeed
    backends: Mapping[str, DeviceSpeed] = field(default_factory=dict, hash=False)

    def of(self, device: str, backend: str = "") -> DeviceSpeed:
        """The constants of a device that this backend runs; raises KeyError for an unknown one."""
        if device == "cpu" and backend in self.backends:
            return self.backends[backend]
        return self.devices[device]


class PlacedStage(Protocol):
    """What the cost of a stage depends on; `scheduler.plan.Stage` and `StageParts` are such."""

    @property
    def device(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def blocks(self) -> Sized: ...
    @property
    def lm_head_precision(self) -> Precision | None: ...


@dataclass(frozen=True)
class StageParts:
    """A stage without its memory: enough to predict its time. Order of stages is execution's.

    `backend` is what runs it; empty: MNN.
    """

    device: str
    precision: Precision
    blocks: range
    lm_head_precision: Precision | None = None
    backend: str = ""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one forward through all stages; `stage_seconds` without lm_head and hops.

    `rows` is the number of tokens that the step yields: one per running slot at decode.
    """

    stage_seconds: tuple[float, ...]
    lm_head_stage: int
    lm_head_seconds: float
    hop_seconds: float
    rows: int = 1

    @property
    def total_seconds(self) -> float:
        """Stages in turn, lm_head and hops."""
        return sum(self.stage_seconds) + self.lm_head_seconds + self.hop_seconds

    @property
    def slowest_stage_seconds(self) -> float:
        """The stage that bounds a full pipeline, with lm_head where it lives."""
        return max(
            seconds + (self.lm_head_seconds if number == self.lm_head_stage else 0.0)
            for number, seconds in enumerate(self.stage_seconds)
        )

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all slots together, stages taking turns."""
        return self.rows / self.total_seconds

    @property
    def tokens_per_second_per_slot(self) -> float:
        """Tokens that each of the running requests gets."""
        return 1 / self.total_seconds

    @property
    def pipelined_tokens_per_second(self) -> float:
        """Tokens per second if every stage always had a batch of `rows` to work on."""
        return self.rows / self.slowest_stage_seconds


def device_kind(device: str, backend: str = "") -> DeviceKind:
    """The kind of memory and arithmetic behind a device and what runs it."""
    if device != "cpu":
        return "cuda"
    return "ort" if backend.startswith("ort:") else "cpu"


@lru_cache(maxsize=4096)
def read_block_bytes(spec: ModelSpec, precision: Precision, kind: DeviceKind) -> int:
    """Compute the bytes of one block's weights that each decoded token reads.

    On processors all that is held (fp16 was expanded to fp32), on CUDA what the file holds: the
    fp16 scratch beside int8 and int4 weights is not read at decode.
    """
    if kind == "cuda":
        return block_bytes(spec, precision)
    return held_block_bytes(spec, precision, kind)


@lru_cache(maxsize=4096)
def read_lm_head_bytes(spec: ModelSpec, precision: Precision, kind: DeviceKind) -> int:
    """Compute the bytes of lm_head that each token reads, as `read_block_bytes` does."""
    if kind == "cuda":
        return lm_head_bytes(spec, precision)
    return held_lm_head_bytes(spec, precision, kind)


def block_decode_seconds(
    spec: ModelSpec,
    speed: DeviceSpeed,
    kind: DeviceKind,
    precision: Precision,
    context: int,
    rows: int = 1,
) -> float:
    """Predict one block's decode of a token for each of `rows` slots that hold `context` tokens.

    Slots are decoded in groups, with a row for each slot and as many more as `decoded_rows` says.
    The KV cache is read at its capacity, not at its fill.
    """
    computed = decoded_rows(rows)
    kv_bytes = (
        kv_capacity(context)
        * computed
        * block_kv_bytes_per_token(spec, value_bytes(precision, kind))
    )
    return (
        _weight_seconds(
            read_block_bytes(spec, precision, kind),
            computed * block_flops_per_token(spec, 0),
            speed,
            precision,
            computed,
        )
        + kv_bytes / (speed.kv_bytes_per_second or speed.bandwidth_bytes_per_second)
        + decode_groups(rows) * speed.block_overhead_seconds
    )


def lm_head_seconds(
    spec: ModelSpec, speed: DeviceSpeed, kind: DeviceKind, precision: Precision, rows: int = 1
) -> float:
    """Predict logits for the last position of `rows` slots, as `block_decode_seconds` does."""
    read_bytes, computed = read_lm_head_bytes(spec, precision, kind), decoded_rows(rows)
    rate = speed.weight_speed(precision).lm_head_bytes_per_second
    flops = computed * lm_head_flops(spec)
    weights = _weight_seconds(read_bytes, flops, speed, precision, computed, rate)
    return weights + decode_groups(rows) * speed.block_overhead_seconds


def block_prefill_seconds(
    spec: ModelSpec, speed: DeviceSpeed, kind: DeviceKind, precision: Precision, tokens: int
) -> float:
    """Predict one block over a prompt of `tokens`: arithmetic, or reading the weights if longer.

    Both count for every forward of a prompt that is computed in chunks. Scores are computed for
    every pair of positions and the capacity of the cache.
    """
    reading = (
        read_block_bytes(spec, precision, kind) / speed.weight_speed(precision).bytes_per_second
    )
    return sum(
        max(flops / speed.flops(precision), reading) + speed.block_overhead_seconds
        for flops in _prefill_flops(spec, tokens)
    )


@lru_cache(maxsize=4096)
def _prefill_flops(spec: ModelSpec, tokens: int) -> tuple[int, ...]:
    """Operations of one block in each forward of a prompt."""
    return tuple(
        new * block_flops_per_token(spec, new + kv_capacity(cached))
        for new, cached in prefill_forwards(spec.family, tokens)
    )


def decode_seconds(
    stages: Sequence[PlacedStage], spec: ModelSpec, speeds: Speeds, context: int, rows: int = 1
) -> StepCost:
    """Predict one decode step of `rows` slots, each with `context` tokens behind it.

    Raises KeyError for a device that `speeds` does not know.
    """
    per_stage = []
    for stage in stages:
        count = len(stage.blocks)
        kind = device_kind(stage.device, stage.backend)
        speed = speeds.of(stage.device, stage.backend)
        per_stage.append(
            count * block_decode_seconds(spec, speed, kind, stage.precision, context, rows)
            if count
            else 0.0
        )
    forwards = decode_groups(rows)
    return _with_head_and_hops(per_stage, stages, spec, speeds, rows, rows, forwards)


def prefill_seconds(
    stages: Sequence[PlacedStage], spec: ModelSpec, speeds: Speeds, tokens: int
) -> StepCost:
    """Predict a prompt of `tokens` through all stages, up to the logits of its last position.

    The total is the time to first token. Raises KeyError as `decode_seconds`.
    """
    per_stage = []
    for stage in stages:
        count = len(stage.blocks)
        kind = device_kind(stage.device, stage.backend)
        speed = speeds.of(stage.device, stage.backend)
        per_stage.append(
            count * block_prefill_seconds(spec, speed, kind, stage.precision, tokens)
            if count
            else 0.0
        )
    forwards = len(prefill_forwards(spec.family, tokens))
    return _with_head_and_hops(per_stage, stages, spec, speeds, 1, tokens, forwards)


def time_to_first_token(
    stages: Sequence[PlacedStage], spec: ModelSpec, speeds: Speeds, tokens: int
) -> float:
    """Seconds from a prompt of `tokens` to its first new token; sampling is left out."""
    return prefill_seconds(stages, spec, speeds, tokens).total_seconds


def hop_count(stages: Sequence[PlacedStage]) -> int:
    """Count hops: embedding to the first run of blocks, run to run, and to a lm_head elsewhere."""
    running = [number for number, stage in enumerate(stages) if len(stage.blocks)]
    head = _lm_head_stage(stages)
    return len(running) + (1 if running and running[-1] != head else 0)


def hidden_bytes(spec: ModelSpec, tokens: int) -> int:
    """Compute the bytes of hidden states, fp32: 16 KiB a token at width 4096."""
    return tokens * spec.hidden_size * _HIDDEN_VALUE_BYTES


def _with_head_and_hops(
    per_stage: list[float],
    stages: Sequence[PlacedStage],
    spec: ModelSpec,
    speeds: Speeds,
    rows: int,
    tokens: int,
    forwards: int,
) -> StepCost:
    head = _lm_head_stage(stages)
    precision, device = stages[head].lm_head_precision, stages[head].device
    backend = stages[head].backend
    assert precision is not None
    return StepCost(
        stage_seconds=tuple(per_stage),
        lm_head_stage=head,
        lm_head_seconds=lm_head_seconds(
            spec, speeds.of(device, backend), device_kind(device, backend), precision, rows
        ),
        hop_seconds=hop_count(stages) * speeds.hop.seconds(hidden_bytes(spec, tokens), forwards),
        rows=rows,
    )


def _lm_head_stage(stages: Sequence[PlacedStage]) -> int:
    return next(n for n, stage in enumerate(stages) if stage.lm_head_precision is not None)


def _weight_seconds(
    read_bytes: int,
    flops: int,
    speed: DeviceSpeed,
    precision: Precision,
    rows: int,
    rate: float | None = None,
) -> float:
    """Time of matrix products with `rows` rows: passes over the weights, or arithmetic if more.

    `rate` replaces the one for blocks.
    """
    weights = speed.weight_speed(precision)
    passes = -(-rows // min(speed.rows_per_pass or GROUP_ROWS, GROUP_ROWS))
    reads = passes + (rows - passes) * weights.extra_row_share
    reading = reads * read_bytes / (rate or weights.bytes_per_second)
    return max(reading, flops / speed.flops(precision))
