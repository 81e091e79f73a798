"""What is given up when memory runs short, in which order, and when it comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.batching import arrange, group_sizes
from scheduler.memory import kv_cache_bytes
from scheduler.model import block_kv_bytes_per_token
from scheduler.pressure import MemoryNeed, MemoryNow, back_off, over_plan, plenty
from scheduler.profiles import load_model
from scheduler.slots import GROUP_ROWS, kv_capacity
from scheduler.units import GIB, MIB

# An idle model of 1,000 MiB, and 100 MiB for every slot in use.
NEED = MemoryNeed("ram", tuple((1000 + 100 * slots) * MIB for slots in range(5)))


def now(free_mib: int, held_mib: int = 1000, swapped_mib: int = 0) -> MemoryNow:
    return MemoryNow(8 * GIB, free_mib * MIB, held_mib * MIB, swapped_mib * MIB)


def slots_at(free_mib: int, usable: int = 4, held_mib: int = 1000) -> int:
    return back_off([NEED], {"ram": now(free_mib, held_mib)}, {}, usable).usable_slots


KEPT_MIB = now(0).kept_free_bytes / MIB


def test_a_fiftieth_of_the_memory_is_kept_for_others_at_most_256_mib() -> None:
    assert now(0).kept_free_bytes == 8 * GIB // 50
    assert MemoryNow(64 * GIB, 0).kept_free_bytes == 256 * MIB


def test_slots_go_one_by_one_as_memory_does() -> None:
    assert [slots_at(free + int(KEPT_MIB) + 1) for free in (400, 399, 299, 199, 99, 0)] == [
        *(4, 3, 2, 1, 0, 0)
    ]


def test_what_slots_hold_already_need_not_be_free() -> None:
    assert slots_at(201 + int(KEPT_MIB), held_mib=1200) == 4
    assert slots_at(int(KEPT_MIB) + 1, held_mib=1400) == 4
    assert slots_at(int(KEPT_MIB) - 1, held_mib=1400) == 0


def test_slots_come_back_with_twice_the_margin_only() -> None:
    just_enough = 400 + int(KEPT_MIB) + 1
    assert slots_at(just_enough, usable=4) == 4
    assert slots_at(just_enough, usable=2) == 2 or slots_at(just_enough, usable=2) == 3
    assert slots_at(400 + 2 * int(KEPT_MIB) + 2, usable=0) == 4


def test_a_model_that_is_swapped_out_loses_a_slot_whatever_is_free() -> None:
    before, after = {"ram": now(5000, swapped_mib=10)}, {"ram": now(5000, swapped_mib=11)}
    found = back_off([NEED], after, before, 4)
    assert found.usable_slots == 3
    assert found.reason is not None
    assert "swapped out" in found.reason
    assert back_off([NEED], after, after, 3).usable_slots == 4
    assert back_off([NEED], after, before, 0).usable_slots == 0


def test_the_shortest_memory_decides_and_is_named() -> None:
    card = MemoryNeed("gpu0", tuple((500 + 10 * slots) * MIB for slots in range(5)))
    readings = {"ram": now(5000), "gpu0": MemoryNow(GIB, 25 * MIB, 500 * MIB)}
    found = back_off([NEED, card], readings, {}, 4)
    assert found.usable_slots == 0
    assert found.short == ("gpu0",)
    assert found.reason == (
        "25.0 MiB of gpu0 are free, and 4 slots may still take 40.0 MiB (estimated);"
        " 0 of 4 slots take new answers."
    )


def test_a_memory_that_nobody_can_read_takes_no_slots() -> None:
    assert back_off([NEED], {}, {}, 4).usable_slots == 4


@given(
    st.integers(0, 3 * GIB),
    st.integers(0, 2 * GIB),
    st.integers(0, 4),
    st.integers(MIB, 64 * GIB),
)
def test_growth_that_is_promised_is_always_free(
    free: int, held: int, usable: int, total: int
) -> None:
    reading = MemoryNow(total, free, held)
    found = back_off([NEED], {"ram": reading}, {}, usable)
    if found.usable_slots:
        growth = max(0, NEED.by_slots[found.usable_slots] - held)
        assert growth + reading.kept_free_bytes <= free
    assert (found.reason is None) == (found.usable_slots == 4)
    more = back_off([NEED], {"ram": MemoryNow(total, free + MIB, held)}, {}, usable)
    assert more.usable_slots >= found.usable_slots
    if plenty(NEED, reading):
        assert back_off([NEED], {"ram": MemoryNow(total, free)}, {}, usable).usable_slots == 4


def test_more_than_was_planned_is_said() -> None:
    assert over_plan(NEED, 1400 * MIB) is None
    assert over_plan(NEED, 1401 * MIB) == (
        "1.37 GiB of RAM are held after loading (measured), 1.37 GiB were planned (estimated)."
    )


@given(st.integers(1, 12), st.integers(1, 4096), st.integers(1, 3), st.data())
def test_the_plan_holds_the_whole_context_of_every_slot(
    slots: int, context: int, at_once: int, data: st.DataObject
) -> None:
    """Whatever requests run, their caches stay within what was reserved before the first began."""
    sizes = group_sizes(slots, at_once)
    spec = load_model("chatglm-6b")
    taken = 0
    for size in sizes:
        rows = data.draw(st.sets(st.integers(0, size - 1)))
        room = {row: data.draw(st.integers(1, context)) for row in sorted(rows)}
        shape = arrange(0, 0, room, keep=False, paired=slots > 1)
        assert shape.rows <= GROUP_ROWS
        assert shape.capacity <= kv_capacity(context)
        used = shape.rows if room else 0
        taken += used * shape.capacity * block_kv_bytes_per_token(spec, 4) * spec.blocks
    assert taken <= kv_cache_bytes(spec, spec.blocks, context, slots, 4)
