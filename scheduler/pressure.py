"""Memory pressure: what to give up when other programs take memory that a running plan counts on.

A plan reserves every slot's whole context, but its cache grows only as answers do. So what must
stay free is what the slots in use may still grow to take. Where that is no longer free, slots are
given up one by one; where not even an idle model has room to breathe, blocks should move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.units import MIB, format_size

RAM = "ram"
_MOST_KEPT_FREE_BYTES = 256 * MIB
_KEPT_FREE_SHARE = 50


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that the model takes of a memory at most, with n slots in use `by_slots[n]`; estimated.

    `device` is ``ram``, for all that runs on the host together, or a GPU.
    """

    device: str
    by_slots: tuple[int, ...]

    @property
    def name(self) -> str:
        """As sentences say it."""
        return "RAM" if self.device == RAM else self.device

    @property
    def all_slots_bytes(self) -> int:
        """With every slot in use."""
        return self.by_slots[-1]


@dataclass(frozen=True)
class MemoryNow:
    """What a memory has free and what the model holds of it, measured; bytes.

    `held_bytes` None: not measured, since enough is free for everything. `swapped_bytes` is how
    much of the model the system has moved to swap.
    """

    total_bytes: int
    free_bytes: int
    held_bytes: int | None = None
    swapped_bytes: int = 0

    @property
    def kept_free_bytes(self) -> int:
        """What is left to everybody else: a fiftieth of the memory, at most 256 MiB."""
        return min(_MOST_KEPT_FREE_BYTES, self.total_bytes // _KEPT_FREE_SHARE)


@dataclass(frozen=True)
class BackOff:
    """What to do now: slots that may take new answers, and why not all of them.

    `short` names the memories that cannot even carry one answer more: blocks should leave them.
    """

    usable_slots: int
    reason: str | None = None
    short: tuple[str, ...] = ()


def plenty(need: MemoryNeed, now: MemoryNow) -> bool:
    """Whether the whole need would fit once more, so that nothing else has to be measured."""
    return now.free_bytes >= need.all_slots_bytes + 2 * now.kept_free_bytes


def back_off(
    needs: Sequence[MemoryNeed],
    now: Mapping[str, MemoryNow],
    before: Mapping[str, MemoryNow],
    usable_slots: int,
) -> BackOff:
    """Decide how many slots may be used, from readings of now and of a moment before.

    Slots go as soon as what they may still take is not free beside `kept_free_bytes`; they come
    back when twice that is kept. A model that is being swapped out loses a slot whatever is free.
    """
    slots = min(len(need.by_slots) for need in needs) - 1
    best, reason, short = slots, None, []
    for need in needs:
        reading = now.get(need.device)
        if reading is None:
            continue
        carried = _carried(need, reading, usable_slots)
        earlier = before.get(need.device)
        swapping = earlier is not None and reading.swapped_bytes > earlier.swapped_bytes
        if swapping:
            carried = min(carried, max(0, usable_slots - 1))
        if carried == 0:
            short.append(need.device)
        if carried < best:
            best = carried
            reason = _reason(need, reading, slots, carried, swapping)
    return BackOff(best, reason, tuple(short))


def _carried(need: MemoryNeed, now: MemoryNow, usable_slots: int) -> int:
    """The most slots whose growth is free; those beyond `usable_slots` need twice the margin."""
    for slots in range(len(need.by_slots) - 1, 0, -1):
        margin = now.kept_free_bytes * (2 if slots > usable_slots else 1)
        if _growth(need, now, slots) + margin <= now.free_bytes:
            return slots
    return 0


def _growth(need: MemoryNeed, now: MemoryNow, slots: int) -> int:
    """Bytes that the model may still take when this many slots are in use."""
    return max(0, need.by_slots[slots] - (now.held_bytes or 0))


def _reason(need: MemoryNeed, now: MemoryNow, slots: int, carried: int, swapping: bool) -> str:
    free = f"{format_size(now.free_bytes)} of {need.name} are free"
    if swapping:
        cause = f"{format_size(now.swapped_bytes)} of the model were swapped out, and {free}"
    else:
        growth = format_size(_growth(need, now, slots))
        cause = f"{free}, and {slots} slots may still take {growth} (estimated)"
    return f"{cause}; {carried} of {slots} slots take new answers."


def over_plan(need: MemoryNeed, held_bytes: int) -> str | None:
    """The sentence to say when a loaded model holds more than was planned for all its slots."""
    if held_bytes <= need.all_slots_bytes:
        return None
    return (
        f"{format_size(held_bytes)} of {need.name} are held after loading (measured),"
        f" {format_size(need.all_slots_bytes)} were planned (estimated)."
    )
