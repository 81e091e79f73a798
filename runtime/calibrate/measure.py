"""Measure this machine in interleaved rounds, and turn the medians into a host profile."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from runtime.backends.ort_session import DISTRIBUTIONS
from runtime.calibrate.fit import fit_cpu, fit_hop
from runtime.calibrate.parts import block_spec, calibration_parts
from runtime.calibrate.rig import Rig, Series, Shot, read_ram, spread
from scheduler.backend_names import Engine
from scheduler.cost import (
    DeviceSpeed,
    HopSpeed,
    block_decode_seconds,
    block_prefill_seconds,
    device_kind,
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

_Taken = dict[tuple[Engine, Precision, Shot], Series]


def calibrate(
    cpu: Cpu,
    name: str,
    width: int,
    engines: Sequence[Engine] = ("mnn",),
    on_progress: OnProgress = lambda _what, _share: None,
) -> HostProfile:
    """Run real blocks of this width on the CPU; rounds end early where the machine is slow.

    `engines` are those to measure, MNN among them; they take turns. Raises UserInputError and
    BundleError as `calibration_parts`, EngineError as `Pipeline`.
    """
    on_progress("blocks", 0.0)
    encoded = [(engine, precision) for engine in engines for precision in _PRECISIONS]
    parts = calibration_parts(width, encoded, lambda part: on_progress(part, 0.05))
    tiny_parts = calibration_parts(TINY_WIDTH, [(engine, "fp32") for engine in engines])
    spec, tiny = block_spec(width), block_spec(TINY_WIDTH)
    threads = cpu.usable_cores
    on_progress("loading", 0.3)
    with contextlib.ExitStack() as stack:

        def rig(*arguments: object, **options: int | str) -> Rig:
            made = Rig(*arguments, **options)  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        full = {
            one: rig(
                spec,
                parts[one],
                threads=threads,
                copies=_COPIES[one[1]],
                backend=_backend(one[0]),
            )
            for one in encoded
        }
        tiny_mnn = tiny_parts["mnn", "fp32"]
        hops = {count: rig(tiny, tiny_mnn, threads=threads, stages=count) for count in HOP_STAGES}
        small = {
            engine: rig(tiny, tiny_parts[engine, "fp32"], threads=threads, backend=_backend(engine))
            for engine in engines
            if engine != "mnn"
        }
        int4 = parts["mnn", "int4"]
        fewer = {count: rig(spec, int4, threads=count) for count in _fewer(threads)}
        taken: _Taken = defaultdict(Series)
        hopping: dict[int, Series] = defaultdict(Series)
        alone: dict[Engine, Series] = defaultdict(Series)
        scaling: dict[int, Series] = defaultdict(Series)
        ram: list[float] = []
        began = time.perf_counter()
        for number in range(_ROUNDS):
            on_progress(f"round {number + 1} of {_ROUNDS}", 0.4 + 0.6 * number / _ROUNDS)
            for shot in _DECODE:
                for (engine, precision), one in full.items():
                    one.fire(shot, _PER_ROUND, taken[engine, precision, shot])
            for count, one in hops.items():
                one.fire(_DECODE[0], _PER_ROUND, hopping[count])
            for engine, one in small.items():
                one.fire(_DECODE[0], _PER_ROUND, alone[engine])
            for count, one in fewer.items():
                one.fire(_DECODE[0], _PER_ROUND, scaling[count])
            if number < _PROMPT_ROUNDS:
                for shot in _PROMPTS:
                    for (engine, precision), one in full.items():
                        one.fire(shot, 1, taken[engine, precision, shot])
            ram.append(read_ram(threads, _RAM_BYTES))
            passed = time.perf_counter() - began
            if number and passed * (number + 2) / (number + 1) > _LONGEST_SECONDS:
                break
    alone["mnn"] = hopping[1]
    speeds = {
        engine: _fitted(
            spec,
            engine,
            taken,
            alone[engine],
            f"{cpu.model_name}, {threads} threads, blocks of width {width} with {_backend(engine)}",
        )
        for engine in engines
    }
    hop = fit_hop(
        {count: statistics.median(series.hops) for count, series in hopping.items()},
        [
            (shot.tokens * spec.hidden_size * 4, statistics.median(series.hops))
            for (_, _, shot), series in taken.items()
            if shot.is_prompt
        ],
    )
    return HostProfile(
        name=name,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu=MeasuredCpu(model_name=cpu.model_name, usable_cores=threads),
        devices={"cpu": DeviceConstants.of(speeds["mnn"], cpu.model_name)},
        backends={"ort:cpu": DeviceConstants.of(speeds["ort"], cpu.model_name)}
        if "ort" in speeds
        else {},
        hop=HopConstants(
            latency_seconds=hop.latency_seconds, bytes_per_second=hop.bytes_per_second
        ),
        evidence=[
            *(
                seen
                for engine, speed in speeds.items()
                for seen in _evidence(spec, engine, speed, taken)
            ),
            *_hop_evidence(hop, hopping),
        ],
        threads=_threads({**scaling, threads: taken["mnn", "int4", _DECODE[0]]}),
        facts={
            "width": width,
            "ram_read_bytes_per_second": statistics.median(ram),
            "ram_read_spread": spread(ram),
            "mnn": _version("MNN"),
            **({"onnxruntime": _ort_version()} if "ort" in engines else {}),
        },
    )


def _backend(engine: Engine) -> str:
    return f"{engine}:cpu"


def _fitted(
    spec: ModelSpec,
    engine: Engine,
    taken: Mapping[tuple[Engine, Precision, Shot], Series],
    alone: Series,
    source: str,
) -> DeviceSpeed:
    """The constants of one engine; `alone` has the times of a block that is all overhead."""
    blocks = {
        (precision, shot): statistics.median(series.block)
        for (of, precision, shot), series in taken.items()
        if of == engine
    }
    heads = {one: statistics.median(taken[engine, one, _DECODE[0]].lm_head) for one in _PRECISIONS}
    kind = device_kind("cpu", _backend(engine))
    return fit_cpu(spec, kind, blocks, heads, statistics.median(alone.block), source)


def _fewer(threads: int) -> list[int]:
    """Powers of two below all usable threads."""
    return [1 << power for power in range(16) if 1 << power < threads]


def _evidence(spec: ModelSpec, engine: Engine, speed: DeviceSpeed, taken: _Taken) -> list[Evidence]:
    found = []
    kind = device_kind("cpu", _backend(engine))
    prefix = "" if engine == "mnn" else f"{_backend(engine)} "
    for (of, precision, shot), series in taken.items():
        if of != engine:
            continue
        if shot.is_prompt:
            what = f"{prefix}{precision} block, prompt of {shot.tokens}"
            predicted = block_prefill_seconds(spec, speed, kind, precision, shot.tokens)
        else:
            what = f"{prefix}{precision} block, {shot.rows} rows, {shot.cached} cached"
            predicted = block_decode_seconds(spec, speed, kind, precision, shot.cached, shot.rows)
        found.append(_seen(what, series.block, predicted))
        if shot == _DECODE[0]:
            seconds = lm_head_seconds(spec, speed, kind, precision)
            found.append(_seen(f"{prefix}{precision} lm_head", series.lm_head, seconds))
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


def _ort_version() -> str | None:
    found = [_version(name) for name in DISTRIBUTIONS]
    return next((one for one in found if one), None)


def _version(distribution: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(distribution)
    return None
