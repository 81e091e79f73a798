"""Which requests share a decode step, and what their cache looks like: rules without state.

Weights are read once for all rows of a step, so rows together are cheaper than rows in turn, up to
four; for eight MNN takes another kernel, and a step takes twice as long as for four
(docs/runtime.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.slots import GROUP_ROWS, kv_capacity


@dataclass(frozen=True)
class Arrangement:
    """The shape of a group's cache in its next step.

    `sources` has an entry per row: which row it is now, or -1. `moved` maps rows in use to their
    new places, where these differ.
    """

    capacity: int
    sources: tuple[int, ...]
    moved: Mapping[int, int]

    @property
    def rows(self) -> int:
        """Rows of the cache, in use or not."""
        return len(self.sources)


def group_sizes(slots: int, stages_at_once: int) -> tuple[int, ...]:
    """Split slots into groups of 4 or 2: as few as fit, but one for every stage that can be busy.

    Their caches have `slots` rows together, rounded up to pairs where there are more than one.
    """
    pairs = -(-slots // 2)
    count = max(-(-slots // GROUP_ROWS), min(stages_at_once, pairs))
    sizes = [2 * (pairs // count + (number < pairs % count)) for number in range(count)]
    sizes[-1] -= slots % 2
    return tuple(sizes)


def padded_rows(rows: int, paired: bool) -> int:
    """Rows that are computed for so many in use: 2 or 4; 1 alone where rows are never paired.

    MNN computes a single row with other kernels, whose last bits differ, and at int8 and int4 its
    answers; two and four rows agree to the bit. So a request that may get neighbours never runs
    without one, and an engine with one slot is faster.
    """
    if rows < 2 and not paired:
        return 1
    return 2 if rows < 3 else GROUP_ROWS


def choose_group(
    running: Sequence[int], sizes: Sequence[int], stages_at_once: int = 1
) -> int | None:
    """The group that the next request joins, None where all are full.

    `running` counts the requests of each group. First choice is a row that is computed anyway (one
    joins one, a fourth joins three), then an empty group where a stage would else be idle, then the
    fullest group with room.
    """
    open_groups = [n for n, size in enumerate(sizes) if running[n] < size]
    free_rows = [n for n in open_groups if running[n] % 2]
    if free_rows:
        return max(free_rows, key=lambda n: running[n])
    empty = [n for n in open_groups if not running[n]]
    if empty and sum(map(bool, running)) < stages_at_once:
        return empty[0]
    return max(open_groups, key=lambda n: running[n], default=None)


def arrange(
    rows_now: int, capacity_now: int, room: Mapping[int, int], keep: bool, paired: bool
) -> Arrangement:
    """Shape the cache of a group for its next step.

    `room` maps each row in use to the tokens that it needs room for. With `keep` nothing shrinks or
    moves: a prompt is being written into a row, or somebody waits for what is free. `paired`: see
    `padded_rows`.
    """
    rows = padded_rows(len(room), paired)
    capacity = kv_capacity(max(room.values(), default=0))
    if keep:
        rows = max(rows, rows_now, padded_rows(max(room, default=0) + 1, paired))
        capacity = max(capacity, capacity_now)
    free = [row for row in range(rows) if row not in room]
    moved = dict(zip((row for row in sorted(room) if row >= rows), free, strict=False))
    sources = [row if row < rows_now else -1 for row in range(rows)]
    for old, new in moved.items():
        sources[new] = old if old < rows_now else -1
    return Arrangement(capacity, tuple(sources), moved)


def stages_at_once(cpu_threads: Sequence[int], other_stages: int, cores: int) -> int:
    """How many stages can be busy at the same time without taking each other's cores.

    `cpu_threads` are those of each stage on the processor.
    """
    on_cpu = len(cpu_threads) if sum(cpu_threads) <= cores else 1
    return max(1, other_stages + (on_cpu if cpu_threads else 0))
