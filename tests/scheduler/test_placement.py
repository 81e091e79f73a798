"""The published rule, in exact arithmetic, on one GPU and on several."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.placement import block_ranges, place_by_hand, place_by_reserve, reserve_blocks
from scheduler.units import GIB, MIB

sizes = st.integers(0, 1 << 42)
counts = st.integers(0, 200)


def article(vram_gib: Fraction) -> int:
    """The article's words, computed with fractions: (VRAM - 2 GiB) in MiB over 385, 0 to 28."""
    return max(0, min(math.floor((vram_gib - 2) * 1024 / 385), 28))


@given(st.fractions(0, 64, max_denominator=GIB))
@example(Fraction(11))
@example(Fraction(2))
@example(Fraction(2048 + 385, 1024))  # exactly one block
@example(Fraction(2048 + 28 * 385, 1024))  # exactly all of them
def test_it_is_the_articles_rule(vram_gib: Fraction) -> None:
    free_bytes = math.floor(vram_gib * GIB)
    assert reserve_blocks(free_bytes, 2 * GIB, 385 * MIB, 28) == article(vram_gib)


def test_one_byte_below_a_block_is_a_block_less() -> None:
    edge = 2 * GIB + 23 * 385 * MIB
    assert reserve_blocks(edge, 2 * GIB, 385 * MIB, 28) == 23
    assert reserve_blocks(edge - 1, 2 * GIB, 385 * MIB, 28) == 22


@given(sizes, sizes, sizes, st.integers(1, 1 << 40), counts)
def test_more_memory_never_means_fewer_blocks(
    free: int, more: int, reserve: int, block: int, blocks: int
) -> None:
    few = reserve_blocks(free, reserve, block, blocks)
    assert 0 <= few <= reserve_blocks(free + more, reserve, block, blocks) <= blocks
    assert few == 0 or few * block + reserve <= free


@given(st.lists(st.none() | sizes, max_size=6), sizes, st.integers(1, 1 << 34), counts)
def test_gpus_fill_in_order(free: list[int | None], reserve: int, block: int, blocks: int) -> None:
    placed = place_by_reserve(free, reserve, block, blocks)
    assert len(placed) == len(free)
    assert sum(placed) <= blocks
    remaining = blocks
    for own_free, count in zip(free, placed, strict=True):
        alone = 0 if own_free is None else reserve_blocks(own_free, reserve, block, blocks)
        assert count == min(alone, remaining)
        remaining -= count


@given(st.lists(counts, min_size=1, max_size=6), counts)
def test_a_count_set_by_hand_is_kept_exactly(by_rule: list[int], wanted: int) -> None:
    placed = place_by_hand(by_rule, wanted)
    assert sum(placed) == wanted
    assert all(count <= rule for count, rule in zip(placed[:-1], by_rule, strict=False))


@given(st.lists(counts, max_size=6))
def test_ranges_are_contiguous(placed: list[int]) -> None:
    covered = [
        block
        for held in block_ranges(placed)
        if held is not None
        for block in range(held[0], held[1] + 1)
    ]
    assert covered == list(range(sum(placed)))
