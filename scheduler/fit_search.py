"""The search behind `fit`: how many blocks each device runs, and where lm_head lives.

Devices are numbers here: seconds per block, seconds of lm_head, most blocks, and the RAM that each
count takes. Blocks are alike and hops cost the same everywhere, so the order of devices does not
matter for the time, and every choice of devices has a closed answer: fill the fastest first (for
latency), or the one that would finish first (for throughput). Only RAM couples the devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from scheduler.fit_counts import fastest_counts, most_even_counts

Objective = Literal["latency", "throughput"]

EXACT_DEVICES = 9
"""Up to so many devices (8 GPUs and the CPU) every subset is tried; beyond, `_likely_subsets`."""


@dataclass(frozen=True)
class Seat:
    """A device as the search sees it; pairs hold what is true without and with lm_head.

    `most_blocks` by the device's own memory; -1 where lm_head alone does not fit. `ram_bytes[n]` is
    the RAM that the stage takes with n blocks.
    """

    block_seconds: float
    lm_head_seconds: float
    most_blocks: tuple[int, int]
    ram_bytes: tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Assignment:
    """Blocks per seat, the seat of lm_head, and seconds: one step, and its slowest stage."""

    counts: tuple[int, ...]
    lm_head: int
    total_seconds: float
    slowest_seconds: float


@dataclass(frozen=True)
class _Question:
    seats: Sequence[Seat]
    blocks: int
    hop_seconds: float
    ram_bytes: int | None
    stage_ram_bytes: int
    objective: Objective

    def value(self, answer: Assignment) -> tuple[float, float]:
        total, slowest = answer.total_seconds, answer.slowest_seconds
        return (total, slowest) if self.objective == "latency" else (slowest, total)


def search(
    seats: Sequence[Seat],
    blocks: int,
    hop_seconds: float,
    ram_bytes: int | None,
    stage_ram_bytes: int,
    objective: Objective,
) -> Assignment | None:
    """Find the assignment that is best for the objective, or None where nothing fits.

    `ram_bytes` is for all stages together (None: no limit), `stage_ram_bytes` what each takes
    beside its seat's own table. Exact for up to 9 seats. Equal answers go to fewer and faster
    devices, then to those named first.
    """
    question = _Question(seats, blocks, hop_seconds, ram_bytes, stage_ram_bytes, objective)
    speed_order = sorted(range(len(seats)), key=lambda seat: (seats[seat].block_seconds, seat))
    if len(seats) <= EXACT_DEVICES:
        return _best_of(question, _all_subsets(speed_order), None)
    able = [seat for seat in speed_order if seats[seat].most_blocks[0] > 0]
    best = _best_of(question, _likely_subsets(able, blocks), None)
    while best is not None:
        used = {seat for seat in able if best.counts[seat]}
        changed = [used ^ {seat} for seat in able]
        changed += [used ^ {seat, other} for seat in used for other in able if other not in used]
        neighbours = [[seat for seat in able if seat in subset] for subset in changed]
        better = _best_of(question, neighbours, best)
        if better is best:
            break
        best = better
    return best


def _all_subsets(speed_order: list[int]) -> Iterator[Sequence[int]]:
    for size in range(1, len(speed_order) + 1):
        yield from combinations(speed_order, size)


def _likely_subsets(able: list[int], blocks: int) -> Iterator[Sequence[int]]:
    """The fastest, the two fastest, ..., all, and all but one, which may hold lm_head alone.

    From the best of them, one device more, less or exchanged is tried for as long as that helps.
    """
    for size in range(1, len(able) + 1):
        yield able[:size]
    for left_out in able:
        yield [seat for seat in able if seat != left_out][:blocks]


def _best_of(
    question: _Question, subsets: Iterable[Sequence[int]], best: Assignment | None
) -> Assignment | None:
    for used in subsets:
        for head in range(len(question.seats)) if used else ():
            answer = _answer(question, used, head, best)
            if answer is not None and (
                best is None or question.value(answer) < question.value(best)
            ):
                best = answer
    return best


def _answer(
    question: _Question, used: Sequence[int], head: int, best: Assignment | None
) -> Assignment | None:
    """The best counts for the devices that run blocks (fastest first) and the seat of lm_head."""
    seats, blocks = question.seats, question.blocks
    most = [seats[seat].most_blocks[seat == head] for seat in used]
    apart = head not in used
    if min(most) < 1 or sum(most) < blocks or len(used) > blocks:
        return None
    if apart and seats[head].most_blocks[1] < 0:
        return None
    fixed = (len(used) + apart) * question.hop_seconds + seats[head].lm_head_seconds
    rates = [seats[seat].block_seconds for seat in used]
    if (
        best is not None
        and question.objective == "latency"
        and fixed + blocks * rates[0] > best.total_seconds
    ):
        return None
    ram = _ram_left(question, used, head)
    if ram is not None and ram < 0:
        return None
    tables = [seats[seat].ram_bytes[seat == head] for seat in used]
    heads = [seats[seat].lm_head_seconds if seat == head else 0.0 for seat in used]
    if question.objective == "latency":
        counts = fastest_counts(rates, most, blocks, tables, ram)
    else:
        counts = most_even_counts(rates, heads, most, blocks, tables, ram)
    if counts is None:
        return None
    spread = [0] * len(seats)
    for seat, count in zip(used, counts, strict=True):
        spread[seat] = count
    slowest = max(
        count * rate + extra for count, rate, extra in zip(counts, rates, heads, strict=True)
    )
    if apart:
        slowest = max(slowest, seats[head].lm_head_seconds)
    total = fixed + sum(count * rate for count, rate in zip(counts, rates, strict=True))
    return Assignment(tuple(spread), head, total, slowest)


def _ram_left(question: _Question, used: Sequence[int], head: int) -> int | None:
    """RAM for the stages with blocks; what a stage with lm_head alone takes is gone already."""
    if question.ram_bytes is None:
        return None
    left = question.ram_bytes - len(used) * question.stage_ram_bytes
    if head not in used:
        left -= question.stage_ram_bytes + question.seats[head].ram_bytes[1][0]
    return left
