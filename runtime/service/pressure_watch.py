"""Watches free memory while a model is served, and gives up slots before the system has to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from runtime.bundle_spec import spec_of_bundle
from runtime.memory_watch import held_now, memory_needs, memory_now
from runtime.service.errors import ApiError
from runtime.service.served_model import ServedModel
from runtime.service.settings import BackOffPolicy
from scheduler.plan import Plan
from scheduler.pressure import RAM, BackOff, MemoryNeed, MemoryNow, back_off, over_plan
from scheduler.units import format_size

Measure = Callable[[Sequence[MemoryNeed], Sequence[int]], Mapping[str, MemoryNow]]
_log = logging.getLogger(__name__)
_SECONDS = 1.0


class PressureWatch:
    """Measures about once a second and applies what `scheduler.pressure` decides.

    `found` is the newest decision; with the policy `off` it is only told, not applied. `needs` is
    what was planned for every memory, `loaded` what was held of it after loading (measured).
    """

    def __init__(
        self, served: ServedModel, policy: BackOffPolicy, measure: Measure = memory_now
    ) -> None:
        self.found = BackOff(served.slots)
        self._served = served
        self._policy = policy
        self._measure = measure
        self._spec = spec_of_bundle(served.bundle)
        self.needs = memory_needs(served.plan, self._spec, served.launches, served.slots)
        self.loaded: dict[str, int] = {}
        self._starts = 0  # of the engine, up to the one that was measured
        self._gave_up: Plan | None = None  # the plan that was last asked to be made smaller
        self._before: Mapping[str, MemoryNow] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                await self.look()
            except Exception:
                # A reading that fails must not end the watch, nor the server.
                _log.exception("free memory could not be measured")

    async def look(self) -> None:
        """Measure once and act; does nothing while there is no engine."""
        try:
            engine = self._served.engine()
        except ApiError:
            return
        worker_ids = engine.worker_ids
        if not worker_ids:
            return
        if engine.starts != self._starts:
            self._starts = engine.starts
            served = self._served
            self.needs = memory_needs(served.plan, self._spec, served.launches, served.slots)
            self.loaded = await asyncio.to_thread(held_now, self.needs, worker_ids)
            self._tell_loaded()
        now = await asyncio.to_thread(self._measure, self.needs, worker_ids)
        usable = self.found.usable_slots
        decided = back_off(self.needs, now, self._before, usable)
        self.found, self._before = decided, now
        if decided.usable_slots < usable:
            _log.warning("memory is short: %s", decided.reason)
        elif decided.usable_slots > usable:
            _log.warning(
                "memory is back: %d of %d slots take new answers",
                decided.usable_slots,
                self._served.slots,
            )
        if self._policy == "off":
            return
        self._served.admission.allow(decided.usable_slots)
        if decided.reason is None:
            self._gave_up = None
            return
        engine.forget()  # prefixes that are kept for later prompts
        cards = [device for device in decided.short if device != RAM]
        idle = not self._served.admission.busy
        if self._policy == "blocks" and cards and idle and self._served.plan is not self._gave_up:
            self._gave_up = self._served.plan
            engine.give_up_block(cards[0], decided.reason)

    def _tell_loaded(self) -> None:
        for need in self.needs:
            held = self.loaded.get(need.device)
            if held is None:
                continue
            deviation = over_plan(need, held)
            if deviation:
                _log.warning("%s", deviation)
            else:
                _log.info(
                    "%s of %s are held after loading (measured), %s were planned (estimated)",
                    format_size(held),
                    need.name,
                    format_size(need.all_slots_bytes),
                )
