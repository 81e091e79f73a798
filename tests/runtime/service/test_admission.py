"""Slots and queue: order, bounds, and tickets that go at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.service.admission import Admission, Ticket
from runtime.service.errors import ApiError


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_slots_go_in_order_of_arrival() -> None:
    async def scenario() -> None:
        admission = Admission(2, 3)
        tickets = admission.enter(5)
        order: list[int] = []

        async def wait(number: int) -> None:
            await tickets[number].turn()
            order.append(number)

        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        for number in (1, 0, 2, 3):
            await asyncio.sleep(0.01)
            tickets[number].leave()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]
        tickets[4].leave()
        assert (admission.busy, admission.waiting) == (0, 0)

    run(scenario())


def test_a_full_queue_says_when_to_come_back() -> None:
    async def scenario() -> None:
        admission = Admission(1, 1)
        admission.enter(2)
        with pytest.raises(ApiError, match="1 of 1 places") as refused:
            admission.enter(1)
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1

    run(scenario())


def test_slots_that_are_given_up_empty_and_come_back_in_order() -> None:
    async def scenario() -> None:
        admission = Admission(3, 3)
        running = admission.enter(3)
        admission.allow(1)
        assert admission.busy == 3  # what runs goes on
        waiting = admission.enter(2)
        with pytest.raises(ApiError, match=r"all 1 slots are busy \(2 more are given up"):
            admission.enter(2)
        running[0].leave()
        running[1].leave()
        assert (admission.busy, admission.waiting) == (1, 2)
        running[2].leave()
        assert (admission.busy, admission.waiting) == (1, 1)
        admission.allow(0)
        waiting[0].leave()
        assert (admission.busy, admission.waiting) == (0, 1)
        admission.allow(3)
        assert (admission.busy, admission.waiting) == (1, 0)
        assert waiting[1].slot_since is not None

    run(scenario())


@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(st.one_of(st.integers(1, 3), st.integers(-20, -1)), max_size=60),
)
def test_no_slot_is_lost_or_given_twice(slots: int, queue: int, steps: list[int]) -> None:
    async def scenario() -> None:
        admission = Admission(slots, queue)
        inside: list[Ticket] = []
        for step in steps:
            if step > 0:
                try:
                    inside += admission.enter(step)
                except ApiError:
                    assert len(inside) + step > slots + queue
            elif inside:
                inside.pop(step % len(inside)).leave()
            assert admission.busy == min(slots, len(inside))
            assert admission.waiting == len(inside) - admission.busy
            assert sum(one.slot_since is not None for one in inside) == admission.busy

    run(scenario())
