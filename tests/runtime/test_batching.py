"""Rules of batching: which group a request joins, and what a group's cache looks like."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.batching import (
    GROUP_ROWS,
    arrange,
    choose_group,
    group_sizes,
    padded_rows,
    stages_at_once,
)
from scheduler.slots import kv_capacity

rooms = st.dictionaries(st.integers(0, GROUP_ROWS - 1), st.integers(1, 5000), min_size=1)


@given(st.integers(1, 100), st.integers(1, 8))
def test_groups_hold_every_slot_and_no_more_than_four(slots: int, at_once: int) -> None:
    sizes = group_sizes(slots, at_once)
    assert sum(sizes) == slots
    assert max(sizes) <= GROUP_ROWS
    assert len(sizes) >= min(at_once, slots // 2)
    if slots > 1:
        assert sum(padded_rows(size, paired=True) for size in sizes) == slots + slots % 2


def test_a_second_request_shares_the_padded_row_and_a_third_an_idle_stage() -> None:
    assert choose_group([0, 0], (2, 2), 2) == 0
    assert choose_group([1, 0], (2, 2), 2) == 0
    assert choose_group([2, 0], (4, 4), 2) == 1
    assert choose_group([2, 0], (4, 4), 1) == 0
    assert choose_group([4, 2], (4, 4), 1) == 1
    assert choose_group([3, 1], (4, 4), 2) == 0
    assert choose_group([4, 4], (4, 4), 2) is None


@given(st.integers(1, 40), st.integers(1, 4), st.data())
def test_whoever_may_enter_finds_room(slots: int, at_once: int, data: st.DataObject) -> None:
    sizes = group_sizes(slots, at_once)
    running = [data.draw(st.integers(0, size)) for size in sizes]
    chosen = choose_group(running, sizes, at_once)
    if sum(running) == slots:
        assert chosen is None
    else:
        assert chosen is not None
        assert running[chosen] < sizes[chosen]


@given(rooms, st.sampled_from([0, 1, 2, 4]), st.integers(0, 8000), st.booleans(), st.booleans())
def test_arranged_rows_keep_what_they_held(
    room: dict[int, int], rows_now: int, tokens_now: int, keep: bool, paired: bool
) -> None:
    capacity_now = kv_capacity(tokens_now)
    result = arrange(rows_now, capacity_now, room, keep, paired)
    places = {row: result.moved.get(row, row) for row in room}
    assert len(set(places.values())) == len(room)
    for row, place in places.items():
        assert place < result.rows
        assert result.sources[place] == (row if row < rows_now else -1)
    assert result.capacity >= max(room.values())
    assert result.rows > 1 or not paired
    if keep:
        assert not result.moved
        assert result.rows >= rows_now
        assert result.capacity >= capacity_now
    else:
        assert result.rows == padded_rows(len(room), paired)
        assert result.capacity == kv_capacity(max(room.values()))


@given(rooms, st.booleans())
def test_what_has_its_shape_stays_as_it_is(room: dict[int, int], paired: bool) -> None:
    first = arrange(0, 0, room, keep=False, paired=paired)
    settled = {first.moved.get(row, row): tokens for row, tokens in room.items()}
    again = arrange(first.rows, first.capacity, settled, keep=False, paired=paired)
    assert again.sources == tuple(range(first.rows))
    assert not again.moved


def test_stages_that_share_cores_count_once() -> None:
    assert stages_at_once([2, 2], 0, 2) == 1
    assert stages_at_once([1, 1], 0, 2) == 2
    assert stages_at_once([2], 1, 2) == 2
    assert stages_at_once([], 2, 2) == 2
