"""Fit: the constants of `scheduler.cost` from medians of measured forwards, one after another.

Each constant comes from the measurement that shows it best: overhead from a block too small to read
much, the KV rate from the same block with more cache, a weight rate from the full-width block.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from runtime.calibrate.rig import Shot
from scheduler.cost import DeviceSpeed, HopSpeed, WeightSpeed, read_block_bytes, read_lm_head_bytes
from scheduler.memory import DeviceKind
from scheduler.model import ModelSpec, block_flops_per_token, block_kv_bytes_per_token
from scheduler.plan import Precision
from scheduler.slots import GROUP_ROWS, KV_FIRST_STEP, kv_capacity

Medians = Mapping[tuple[Precision, Shot], float]

_ROWS_PER_PASS = (1, 2, GROUP_ROWS)
_SHARES = [step / 100 for step in range(101)]


def fit_cpu(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: Medians,
    heads: Mapping[Precision, float],
    overhead: float,
    source: str,
) -> DeviceSpeed:
    """Fit a CPU from seconds per block by shot, of lm_head with one row, and of a tiny block.

    `kind` is that of the engine. fp16 is held as fp32 there and gets its constants.
    """
    decode = {
        precision: {shot: s for (one, shot), s in blocks.items() if one == precision}
        for precision in dict.fromkeys(one for one, _ in blocks)
    }
    # A measured overhead must leave a block some time to read its weights.
    overhead = min(overhead, *(0.5 * seconds for seconds in blocks.values()))
    kv_rate = _kv_rate(spec, decode)
    rates: dict[Precision, float] = {}
    flops: dict[Precision, float] = {}
    for precision, shots in decode.items():
        rates[precision] = statistics.median(
            read_block_bytes(spec, precision, kind)
            / max(seconds - overhead - _kv_bytes(spec, shot) / kv_rate, 0.1 * seconds)
            for shot, seconds in shots.items()
            if shot.rows == 1 and not shot.is_prompt
        )
        flops[precision] = statistics.geometric_mean(
            prompt_flops(spec, shot.tokens) / (seconds - overhead)
            for shot, seconds in shots.items()
            if shot.is_prompt
        )
    per_pass, shares = _rows(spec, kind, decode, rates, kv_rate, overhead)
    weights = {
        precision: WeightSpeed(
            bytes_per_second=rates[precision],
            extra_row_share=shares[precision],
            lm_head_bytes_per_second=read_lm_head_bytes(spec, precision, kind)
            / max(heads[precision] - overhead, 0.1 * heads[precision]),
            flops_per_second=flops[precision],
        )
        for precision in decode
    }
    weights["fp16"] = weights["fp32"]
    return DeviceSpeed(
        bandwidth_bytes_per_second=rates["fp32"],
        flops_per_second=flops["fp32"],
        block_overhead_seconds=overhead,
        provenance="calibrated",
        source=source,
        weights=weights,
        kv_bytes_per_second=kv_rate,
        rows_per_pass=per_pass,
    )


def fit_hop(latencies: Mapping[int, float], prompts: Sequence[tuple[int, float]]) -> HopSpeed:
    """Fit hops from seconds by number of hops, and from (bytes, seconds) of prompts with one."""
    latency = sum(count * s for count, s in latencies.items())
    latency /= sum(count * count for count in latencies)
    rate = statistics.median(size / max(s - latency, 0.1 * s) for size, s in prompts)
    return HopSpeed(latency, rate)


def prompt_flops(spec: ModelSpec, tokens: int) -> int:
    """Operations of one block over a prompt, as `scheduler.cost` counts them."""
    return tokens * block_flops_per_token(spec, tokens + KV_FIRST_STEP)


def _kv_bytes(spec: ModelSpec, shot: Shot) -> int:
    return kv_capacity(shot.cached) * shot.rows * block_kv_bytes_per_token(spec)


def _kv_rate(spec: ModelSpec, decode: Mapping[Precision, Mapping[Shot, float]]) -> float:
    """The rate between the shortest and the longest cache; at least 1 GB/s, whatever the noise."""
    rates = []
    for shots in decode.values():
        single = {s: t for s, t in shots.items() if s.rows == 1 and not s.is_prompt}
        short = min(single, key=lambda shot: shot.cached)
        long = max(single, key=lambda shot: shot.cached)
        more = _kv_bytes(spec, long) - _kv_bytes(spec, short)
        rates.append(more / max(single[long] - single[short], more / 1e12))
    return max(statistics.median(rates), 1e9)


def _rows(
    spec: ModelSpec,
    kind: DeviceKind,
    decode: Mapping[Precision, Mapping[Shot, float]],
    rates: Mapping[Precision, float],
    kv_rate: float,
    overhead: float,
) -> tuple[int, dict[Precision, float]]:
    """Rows that one pass over the weights serves, and what further rows cost; least error wins."""
    best: tuple[float, int, dict[Precision, float]] | None = None
    for per_pass in _ROWS_PER_PASS:
        shares: dict[Precision, float] = {}
        error = 0.0
        for precision, shots in decode.items():
            reading = read_block_bytes(spec, precision, kind) / rates[precision]

            def off(
                share: float,
                shots: Mapping[Shot, float] = shots,
                reading: float = reading,
                per_pass: int = per_pass,
            ) -> float:
                total = 0.0
                for shot, seconds in shots.items():
                    if shot.rows > 1:
                        passes = -(-shot.rows // per_pass)
                        reads = passes + (shot.rows - passes) * share
                        predicted = reads * reading + _kv_bytes(spec, shot) / kv_rate + overhead
                        total += (predicted / seconds - 1) ** 2
                return total

            shares[precision] = min(_SHARES, key=off)
            error += off(shares[precision])
        if best is None or error < best[0]:
            best = error, per_pass, shares
    assert best is not None
    return best[1], best[2]
