"""Measure this machine in interleaved rounds, and turn the medians into a host profile."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from runtime.calibrate.fit import fit_cpu, fit_hop
from runtime.calibrate.parts import block_spec, calibration_parts
from runtime.calibrate.rig import Rig, Series, Shot, read_ram, spread
from scheduler.cost import (
    DeviceSpeed,
    HopSpeed,
    block_decode_seconds,
    block_prefill_seconds,
    lm_head_seconds,
)
from scheduler.hardware import Cpu
from scheduler.host_profile import (
    DeviceConstants,
    Evidence,
    HopConstants,
    HostProfile,
    MeasuredCpu,
    ThreadPoint,
)
from scheduler.model import ModelSpec
from scheduler.plan import Precision

OnProgress = Callable[[str, float], None]  # what is in work, and the share of all that is done

TINY_WIDTH = 128  # of a block whose time is overhead
HOP_STAGES = (1, 2, 3)
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")
_COPIES: dict[Precision, int] = {"fp32": 1, "int8": 2, "int4": 3}
_DECODE = (
    *(Shot(1, cached, 1) for cached in (16, 500, 1000)),
    *(Shot(rows, 16, 1) for rows in (2, 4)),  # what groups of requests are padded to
)
_PROMPTS = (Shot(1, 0, 128), Shot(1, 0, 384))
_ROUNDS, _PROMPT_ROUNDS, _PER_ROUND = 5, 3, 3
_LONGEST_SECONDS = 60.0
_RAM_BYTES = 256 << 20


def calibrate(
    cpu: Cpu, name: str, width: int, on_progress: OnProgress = lambda _what, _share: None
) -> HostProfile:
    """Run real blocks of this width on the CPU; rounds end early where the machine is slow.

    Raises UserInputError and BundleError as `calibration_parts`, EngineError as `Pipeline`.
    """
    on_progress("blocks", 0.0)
    parts = calibration_parts(width, _PRECISIONS, lambda part: on_progress(part, 0.05))
    tiny_parts = calibration_parts(TINY_WIDTH, ["fp32"])["fp32"]
    spec, tiny = block_spec(width), block_spec(TINY_WIDTH)
    threads = cpu.usable_cores
    on_progress("loading", 0.3)
    with contextlib.ExitStack() as stack:

        def rig(*arguments: object, **options: int) -> Rig:
            made = Rig(*arguments, **options)  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        full = {
            one: rig(spec, parts[one], threads=threads, copies=_COPIES[one]) for one in _PRECISIONS
        }
        hops = {count: rig(tiny, tiny_parts, threads=threads, stages=count) for count in HOP_STAGES}
        fewer = {count: rig(spec, parts["int4"], threads=count) for count in _fewer(threads)}
        taken: dict[tuple[Precision, Shot], Series] = defaultdict(Series)
        hopping: dict[int, Series] = defaultdict(Series)
        scaling: dict[int, Series] = defaultdict(Series)
        ram: list[float] = []
        began = time.perf_counter()
        for number in range(_ROUNDS):
            on_progress(f"round {number + 1} of {_ROUNDS}", 0.4 + 0.6 * number / _ROUNDS)
            for shot in _DECODE:
                for precision, one in full.items():
                    one.fire(shot, _PER_ROUND, taken[precision, shot])
            for count, one in hops.items():
                one.fire(_DECODE[0], _PER_ROUND, hopping[count])
            for count, one in fewer.items():
                one.fire(_DECODE[0], _PER_ROUND, scaling[count])
            if number < _PROMPT_ROUNDS:
                for shot in _PROMPTS:
                    for precision, one in full.items():
                        one.fire(shot, 1, taken[precision, shot])
            ram.append(read_ram(threads, _RAM_BYTES))
            passed = time.perf_counter() - began
            if number and passed * (number + 2) / (number + 1) > _LONGEST_SECONDS:
                break
    source = f"{cpu.model_name}, {threads} threads, blocks of width {width} with mnn:cpu"
    short = _DECODE[0]
    speed = fit_cpu(
        spec,
        {key: statistics.median(series.block) for key, series in taken.items()},
        {one: statistics.median(taken[one, short].lm_head) for one in _PRECISIONS},
        statistics.median(hopping[1].block),
        source,
    )
    hop = fit_hop(
        {count: statistics.median(series.hops) for count, series in hopping.items()},
        [
            (shot.tokens * spec.hidden_size * 4, statistics.median(taken[one, shot].hops))
            for one in _PRECISIONS
            for shot in _PROMPTS
        ],
    )
    return HostProfile(
        name=name,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu=MeasuredCpu(model_name=cpu.model_name, usable_cores=threads),
        devices={"cpu": DeviceConstants.of(speed, cpu.model_name)},
        hop=HopConstants(
            latency_seconds=hop.latency_seconds, bytes_per_second=hop.bytes_per_second
        ),
        evidence=[
            *_evidence(spec, speed, taken),
            *_hop_evidence(hop, hopping),
        ],
        threads=_threads({**scaling, threads: taken["int4", short]}),
        facts={
            "width": width,
            "ram_read_bytes_per_second": statistics.median(ram),
            "ram_read_spread": spread(ram),
            "mnn": _mnn_version(),
        },
    )


def _fewer(threads: int) -> list[int]:
    """Powers of two below all usable threads."""
    return [1 << power for power in range(16) if 1 << power < threads]


def _evidence(
    spec: ModelSpec, speed: DeviceSpeed, taken: dict[tuple[Precision, Shot], Series]
) -> list[Evidence]:
    found = []
    for (precision, shot), series in taken.items():
        if shot.is_prompt:
            what = f"{precision} block, prompt of {shot.tokens}"
            predicted = block_prefill_seconds(spec, speed, "cpu", precision, shot.tokens)
        else:
            what = f"{precision} block, {shot.rows} rows, {shot.cached} cached"
            predicted = block_decode_seconds(spec, speed, "cpu", precision, shot.cached, shot.rows)
        found.append(_seen(what, series.block, predicted))
        if shot == _DECODE[0]:
            seconds = lm_head_seconds(spec, speed, "cpu", precision)
            found.append(_seen(f"{precision} lm_head", series.lm_head, seconds))
    return sorted(found, key=lambda one: one.what)


def _hop_evidence(hop: HopSpeed, hopping: dict[int, Series]) -> list[Evidence]:
    size = 4 * TINY_WIDTH
    return [
        _seen(f"hops through {count} stages", series.hops, count * hop.seconds(size))
        for count, series in hopping.items()
    ]


def _threads(scaling: dict[int, Series]) -> list[ThreadPoint]:
    return [
        ThreadPoint(
            threads=count,
            precision="int4",
            block_seconds=statistics.median(series.block),
            spread=spread(series.block),
        )
        for count, series in sorted(scaling.items())
    ]


def _seen(what: str, samples: list[float], predicted: float) -> Evidence:
    return Evidence(
        what=what,
        measured_seconds=statistics.median(samples),
        predicted_seconds=predicted,
        spread=spread(samples),
    )


def _mnn_version() -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version("MNN")
    return None
