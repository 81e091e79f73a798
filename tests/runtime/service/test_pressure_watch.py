"""The watch on a real engine, with readings of a graphics card that need not be here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.launch import launches_of
from runtime.service.pressure_watch import PressureWatch
from runtime.service.served_model import ServedModel
from scheduler.planner import make_plan
from scheduler.pressure import MemoryNeed, MemoryNow
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB
from tests.support.tiny import TINY_BUNDLE

CARD = MemoryNeed("gpu0", (100 * MIB, 200 * MIB))


def served_model() -> ServedModel:
    bundle = open_bundle(TINY_BUNDLE)
    plan = make_plan(PlanRequest(spec_of_bundle(bundle), vram_bytes=(GIB,), gpu_blocks=3))
    launches = launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)
    return ServedModel(plan, bundle, launches, 4)


def test_a_card_without_room_loses_one_block_at_a_time_between_requests() -> None:
    free = 0

    def measure(needs: Sequence[MemoryNeed], _: Sequence[int]) -> Mapping[str, MemoryNow]:
        return {"gpu0": MemoryNow(GIB, free, 100 * MIB)}

    async def until_started(served: ServedModel, starts: int) -> None:
        while served.lasting.starts < starts or served.lasting.state != "ready":
            await asyncio.sleep(0.05)

    async def scenario(served: ServedModel) -> None:
        nonlocal free
        watch = PressureWatch(served, "blocks", measure)
        await until_started(served, 1)
        (ticket,) = served.admission.enter(1)
        await _look(watch)
        assert served.admission.usable == 0
        await asyncio.sleep(1.5)
        assert served.lasting.starts == 1  # an answer runs
        ticket.leave()
        await _look(watch)
        await until_started(served, 2)
        assert (served.plan.gpu_blocks, served.plan.cpu_blocks) == (2, 6)
        assert "one block of gpu0 moved to the CPU: 0 B of gpu0 are free" in served.degraded[-1]
        free = GIB
        await _look(watch)
        assert served.admission.usable == served.slots
        assert watch.found.reason is None

    async def _look(watch: PressureWatch) -> None:
        watch.needs = [CARD]
        await watch.look()
        watch.needs = [CARD]
        await watch.look()

    served = served_model()
    served.lasting.start()
    try:
        asyncio.run(scenario(served))
    finally:
        served.close()
