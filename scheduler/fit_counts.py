"""How many blocks each of some chosen devices runs: least total time, or fastest slowest stage.

Lists hold one value per device, fastest first: seconds per block, most blocks (at least 1), and
tables of the RAM that each count takes. Every device gets at least one block. `ram` in bytes; None:
no limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace

_Choice = tuple[float, int, tuple[int, ...]]  # seconds, RAM taken, counts


def fastest_counts(
    rates: list[float],
    most: list[int],
    blocks: int,
    tables: list[Sequence[int]],
    ram: int | None,
) -> list[int] | None:
    """Counts of least total time: one block each, the rest on the fastest that have room."""
    counts = [1] * len(most)
    remaining = blocks - len(most)
    for place, limit in enumerate(most):
        added = min(limit - 1, remaining)
        counts[place] += added
        remaining -= added
    if remaining:
        return None
    if ram is None or sum(t[n] for t, n in zip(tables, counts, strict=True)) <= ram:
        return counts
    return _fastest_within_ram(rates, most, blocks, tables, ram)


def _fastest_within_ram(
    rates: list[float], most: list[int], blocks: int, tables: list[Sequence[int]], ram: int
) -> list[int] | None:
    """The same where RAM binds: device by device, keep per number of blocks placed so far every
    choice that no other beats in both RAM and time.
    """
    states: dict[int, list[_Choice]] = {0: [(0.0, 0, ())]}
    for place, (rate, limit, table) in enumerate(zip(rates, most, tables, strict=True)):
        room_later = sum(most[place + 1 :])
        least_later = len(most) - place - 1
        ram_later = sum(later[1] for later in tables[place + 1 :])
        reached: dict[int, list[_Choice]] = {}
        for placed, choices in states.items():
            lowest = max(1, blocks - placed - room_later)
            for count in range(lowest, min(limit, blocks - placed - least_later) + 1):
                for seconds, taken, counts in choices:
                    more = taken + table[count]
                    if more + ram_later <= ram:
                        reached.setdefault(placed + count, []).append(
                            (seconds + count * rate, more, (*counts, count))
                        )
        states = {placed: _unbeaten(choices) for placed, choices in reached.items()}
    final = states.get(blocks)
    return list(final[0][2]) if final else None


def _unbeaten(
    choices: list[_Choice],
) -> list[_Choice]:
    kept: list[_Choice] = []
    for choice in sorted(choices):
        if not kept or choice[1] < kept[-1][1]:
            kept.append(choice)
    return kept


def most_even_counts(
    rates: list[float],
    heads: list[float],
    most: list[int],
    blocks: int,
    tables: list[Sequence[int]],
    ram: int | None,
) -> list[int] | None:
    """Counts whose slowest stage is fastest; among these, of least total time."""
    finishing = [
        (rate + head, place) for place, (rate, head) in enumerate(zip(rates, heads, strict=True))
    ]
    counts = [1] * len(most)
    heap = [
        (2 * rates[place] + heads[place], place) for place in range(len(most)) if most[place] > 1
    ]
    heapify(heap)
    slowest = max(finishing)[0]
    for _ in range(blocks - len(most)):
        if not heap:
            return None
        finish, place = heap[0]
        slowest = max(slowest, finish)
        counts[place] += 1
        if counts[place] < most[place]:
            heapreplace(heap, ((counts[place] + 1) * rates[place] + heads[place], place))
        else:
            heappop(heap)

    def within(bound: float) -> list[int] | None:
        allowed = [
            max(n for n in range(limit + 1) if n == 0 or n * rate + head <= bound)
            for rate, head, limit in zip(rates, heads, most, strict=True)
        ]
        if min(allowed) < 1 or sum(allowed) < blocks:
            return None
        return fastest_counts(rates, allowed, blocks, tables, ram)

    found = within(slowest)
    if found is not None or ram is None:
        return found
    bounds = sorted(
        {
            n * rate + head
            for rate, head, limit in zip(rates, heads, most, strict=True)
            for n in range(1, limit + 1)
            if n * rate + head > slowest
        }
    )
    low, high = 0, len(bounds)
    while low < high:  # a looser bound never excludes what a tighter one allows
        middle = (low + high) // 2
        if within(bounds[middle]) is None:
            low = middle + 1
        else:
            high = middle
    return within(bounds[low]) if low < len(bounds) else None
