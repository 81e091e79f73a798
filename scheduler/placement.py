"""Placement: how many blocks go to which device, in exact integers."""

from __future__ import annotations

from collections.abc import Sequence


def reserve_blocks(free_bytes: int, reserve_bytes: int, block_bytes: int, blocks: int) -> int:
    """Count the blocks of one GPU: floor((free - reserve) / block), within 0 and `blocks`.

    All sizes in bytes, `block_bytes` above 0.
    """
    return max(0, min((free_bytes - reserve_bytes) // block_bytes, blocks))


def place_by_reserve(
    free_bytes: Sequence[int | None], reserve_bytes: int, block_bytes: int, blocks: int
) -> tuple[int, ...]:
    """Count the blocks of every GPU in order: each takes by the rule from what is left.

    A GPU whose free memory is unknown (None) gets nothing. What remains of `blocks` belongs to the
    CPU.
    """
    counts = []
    remaining = blocks
    for free in free_bytes:
        count = 0 if free is None else reserve_blocks(free, reserve_bytes, block_bytes, remaining)
        counts.append(count)
        remaining -= count
    return tuple(counts)


def place_by_hand(by_rule: Sequence[int], wanted: int) -> tuple[int, ...]:
    """Spread a count that the user set: as the rule would, and any excess on the last GPU.

    `by_rule` is what `place_by_reserve` gave for at least one GPU. The result sums to `wanted`.
    """
    counts = []
    remaining = wanted
    for count in by_rule:
        counts.append(min(count, remaining))
        remaining -= counts[-1]
    counts[-1] += remaining
    return tuple(counts)


def block_ranges(counts: Sequence[int]) -> tuple[tuple[int, int] | None, ...]:
    """Turn counts in execution order into (first, last) block, inclusive; None where none."""
    ranges: list[tuple[int, int] | None] = []
    start = 0
    for count in counts:
        ranges.append((start, start + count - 1) if count else None)
        start += count
    return tuple(ranges)
