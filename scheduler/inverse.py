"""Inverse questions: not what fits into this, but what would have to be so that it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scheduler.capacity import judge, stage_bytes
from scheduler.cell import Cell
from scheduler.device_profiles import GpuProfile
from scheduler.machine import Machine
from scheduler.request import LARGEST_SLOTS, PlanRequest
from scheduler.reserve import decide
from scheduler.units import GIB

MORE_VRAM_BYTES = (1 * GIB, 4 * GIB, 8 * GIB)


@dataclass(frozen=True)
class Most:
    """The largest count that fits, with its cell, and whether only the model or program caps it.

    `count` 0: not even one fits.
    """

    count: int
    capped: bool
    cell: Cell | None


@dataclass(frozen=True)
class Buy:
    """A card that reaches a target: its launch price in US dollars and what it would do."""

    gpu: str
    price_usd: int
    cell: Cell


def largest_context(request: PlanRequest, machine: Machine) -> Most:
    """Find the most tokens per slot that run without swapping, at the request's slots."""
    return _most(
        lambda tokens: judge(replace(request, context=tokens), machine), request.model.max_context
    )


def most_slots(request: PlanRequest, machine: Machine) -> Most:
    """Find the most requests that run at once without swapping, at the request's context."""
    return _most(lambda slots: judge(replace(request, slots=slots), machine), LARGEST_SLOTS)


def vram_for_all_blocks(request: PlanRequest, with_lm_head: bool = False) -> int:
    """Compute the bytes that one GPU needs free for every block, and lm_head where asked.

    What they really take; under the `reserve` policy as much as its rule wants, if that is more.
    """
    by_rule = 0
    if request.policy == "reserve":
        rule = decide(request, None)
        by_rule = rule.reserve_bytes + request.model.blocks * rule.block_bytes
    real = stage_bytes(
        request.model,
        "cuda",
        request.model.blocks,
        request.gpu_precision,
        request.gpu_precision if with_lm_head else None,
        request.context_tokens,
        request.slots,
    )
    return max(by_rule, real)


def with_more_vram(request: PlanRequest, machine: Machine, more_bytes: int) -> Cell | None:
    """Judge the machine with more memory on its first GPU; None where it has no GPU."""
    if not machine.host.gpus:
        return None
    return judge(request, machine.with_vram(machine.vram_bytes[0] + more_bytes))


def cheapest_gpu(
    request: PlanRequest, machine: Machine, gpus: Sequence[GpuProfile], target_tps: float
) -> Buy | None:
    """Find the card of the lowest launch price that gives each slot `target_tps` tokens a second.

    The card takes the place of the machine's own. Only NVIDIA's are tried, as GPU stages run on
    CUDA, and only those with a published price and memory of their own. Of two at one price the
    faster wins.
    """
    offers = []
    for gpu in gpus:
        if gpu.vendor != "NVIDIA" or gpu.release_price_usd is None or gpu.unified_memory:
            continue
        cell = judge(request, machine.with_card(gpu))
        if (cell.tokens_per_second_per_slot or 0) >= target_tps:
            offers.append(Buy(gpu.name, gpu.release_price_usd, cell))
    return min(
        offers,
        key=lambda offer: (offer.price_usd, offer.cell.step_seconds, offer.gpu),
        default=None,
    )


def _most(ask: Callable[[int], Cell], largest: int) -> Most:
    """Bisect for the last count that fits; what fits never grows with context or slots."""
    low, high = 0, largest
    best: Cell | None = None
    while low < high:
        middle = (low + high + 1) // 2
        cell = ask(middle)
        if cell.fits:
            low, best = middle, cell
        else:
            high = middle - 1
    return Most(low, low == largest, best)
