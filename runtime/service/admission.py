"""Who may run: so many slots, a bounded queue in order of arrival, and 429 for a full house."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from runtime.service.errors import ApiError

_FORGET = 0.2  # weight of the newest answer in the running mean of their seconds


class Admission:
    """Hands out `slots`; up to `queue` tickets wait for one, first come, first served.

    While memory is short, only `usable` of the slots are handed out; see `allow`.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.slots = slots
        self.usable = slots
        self.queue = queue
        self.busy = 0
        self._waiting: deque[Ticket] = deque()
        self._mean_seconds = 1.0

    @property
    def waiting(self) -> int:
        """Tickets without a slot."""
        return len(self._waiting)

    def allow(self, usable: int) -> None:
        """Use this many slots from now on; what runs goes on, and what waits moves up."""
        self.usable = usable
        while self._waiting and self.busy < usable:
            self.busy += 1
            self._waiting.popleft().take_slot()

    def enter(self, count: int) -> list[Ticket]:
        """Tickets for `count` answers; raises ApiError 429 when they do not all fit the queue."""
        room = max(0, self.usable - self.busy) + self.queue - self.waiting
        if count > room:
            seconds = str(self._retry_seconds(count - room))
            given_up = self.slots - self.usable
            short = f" ({given_up} more are given up while memory is short)" if given_up else ""
            raise ApiError(
                429,
                f"all {self.usable} slots are busy{short} and {self.waiting} of {self.queue} places"
                f" in the queue are taken; try again in {seconds} s.",
                code="queue_full",
                headers={"Retry-After": seconds},
            )
        return [self._ticket() for _ in range(count)]

    def _ticket(self) -> Ticket:
        ticket = Ticket(self)
        if self.busy < self.usable:
            self.busy += 1
            ticket.take_slot()
        else:
            self._waiting.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a ticket back; its slot goes to the one that waits longest."""
        if ticket.slot_since is None:
            self._waiting.remove(ticket)
            return
        seconds = time.monotonic() - ticket.slot_since
        self._mean_seconds += _FORGET * (seconds - self._mean_seconds)
        self.busy -= 1
        self.allow(self.usable)

    def _retry_seconds(self, answers: int) -> int:
        return max(1, math.ceil(self._mean_seconds * answers / max(1, self.usable)))


class Ticket:
    """A place in the queue, then a slot, until `leave`."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = False
        self._held = False
        self.slot_since: float | None = None

    def take_slot(self) -> None:
        """Called by Admission when the slot is this ticket's."""
        self.slot_since = time.monotonic()
        if not self._turn.done():
            self._turn.set_result(None)

    async def turn(self) -> None:
        """Wait for the slot."""
        await asyncio.shield(self._turn)

    def hold(self) -> None:
        """Keep the slot until `leave`, whatever becomes of the one who waited for it."""
        self._held = True

    def abandon(self) -> None:
        """Leave, unless somebody holds the slot."""
        if not self._held:
            self.leave()

    def leave(self) -> None:
        """Give up slot or place; safe to call twice."""
        if not self._left:
            self._left = True
            self._admission.leave(self)
