"""What one host of a cluster can do: for each number of blocks, the fastest way to run them there.

Seats are the host's devices as `scheduler.fit_search` sees them. Stages of a host stand next to
each other in the chain, and lm_head, if the host has it, is on the last of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

from scheduler.fit_counts import fastest_counts
from scheduler.fit_search import Seat

EXACT_SEATS = 5
"""Up to so many devices every choice of them is tried; beyond, the fastest, and all but one."""


@dataclass(frozen=True)
class HostOption:
    """Blocks per seat in the order that they run, with seconds of a step: all, and its slowest.

    `lm_head` is the seat that holds it, listed last even where it runs no blocks; None: elsewhere.
    """

    seconds: float
    slowest_seconds: float
    runs: tuple[tuple[int, int], ...]  # seat, blocks
    lm_head: int | None


@dataclass(frozen=True)
class HostRoom:
    """A host's devices and the RAM for its stages (None: no limit).

    `stage_ram_bytes` is what each stage takes beside its seat's own table, `hop_seconds` what
    passes from a stage to the next within the host.
    """

    seats: tuple[Seat, ...]
    ram_bytes: int | None
    stage_ram_bytes: int
    hop_seconds: float


_Choice = tuple[tuple[int, ...], int | None]  # seats that run blocks, fastest first; lm_head's


class HostTable:
    """Seconds by number of blocks, without and with lm_head; lists end where no more fit.

    `plain[0]` is the host left alone, `with_head[0]` lm_head without blocks; infinity: impossible.
    """

    def __init__(self, room: HostRoom, bound_seconds: float) -> None:
        self.plain: list[float] = [0.0]
        self.with_head: list[float] = []
        self._choices: tuple[list[_Choice], list[_Choice]] = ([((), None)], [])
        self._room, self._bound = room, bound_seconds

    def seconds(self, count: int, head: bool) -> float:
        """Seconds of so many blocks, with or without lm_head."""
        listed = self.with_head if head else self.plain
        return listed[count] if count < len(listed) else inf

    def option(self, count: int, head: bool) -> HostOption:
        """The whole option behind a number that is not infinity."""
        used, home = self._choices[head][count]
        chosen = _Chosen(self._room, used, home, count, self._bound)
        counts = chosen.counts(count)
        assert counts is not None
        return chosen.option(counts)

    def enter(self, used: tuple[int, ...], home: int | None, blocks: int) -> None:
        """Put the seconds of one choice of devices where they are less than those known."""
        chosen = _Chosen(self._room, used, home, blocks, self._bound)
        listed = self.plain if home is None else self.with_head
        choices = self._choices[home is not None]
        for count, seconds in enumerate(chosen.seconds(), start=len(used)):
            if count >= len(listed):
                more = count + 1 - len(listed)
                listed += [inf] * more
                choices += [((), None)] * more
            if seconds < listed[count]:
                listed[count] = seconds
                choices[count] = (used, home)


def host_table(room: HostRoom, blocks: int, bound_seconds: float = inf) -> HostTable:
    """Find the fastest option for 0 to `blocks` blocks in which no stage takes over the bound."""
    table = HostTable(room, bound_seconds)
    for used in _choices(room.seats):
        for home in (None, *range(len(room.seats))):
            if used or home is not None:
                table.enter(used, home, blocks)
    return table


def _choices(seats: Sequence[Seat]) -> Iterator[tuple[int, ...]]:
    """Sets of devices that run blocks, fastest first; the empty one for lm_head alone."""
    order = sorted(range(len(seats)), key=lambda seat: (seats[seat].block_seconds, seat))
    if len(seats) <= EXACT_SEATS:
        for size in range(len(seats) + 1):
            yield from combinations(order, size)
        return
    for size in range(len(order) + 1):
        yield tuple(order[:size])
    for left_out in order[:-1]:
        yield tuple(seat for seat in order if seat != left_out)


class _Chosen:
    """One choice of devices: how it divides each number of blocks."""

    def __init__(
        self, room: HostRoom, used: tuple[int, ...], home: int | None, blocks: int, bound: float
    ) -> None:
        seats = room.seats
        self._used, self._home, self._blocks = used, home, blocks
        self._apart = home is not None and home not in used
        self._head_seconds = 0.0 if home is None else seats[home].lm_head_seconds
        self._rates = [seats[seat].block_seconds for seat in used]
        self._heads = [self._head_seconds if seat == home else 0.0 for seat in used]
        self._most = [
            min(seats[seat].most_blocks[seat == home], _within(rate, extra, bound, blocks))
            for seat, rate, extra in zip(used, self._rates, self._heads, strict=True)
        ]
        self._tables = [seats[seat].ram_bytes[seat == home] for seat in used]
        stages = len(used) + self._apart
        self._fixed = (stages - 1) * room.hop_seconds + self._head_seconds
        self._ram = (
            None if room.ram_bytes is None else room.ram_bytes - stages * room.stage_ram_bytes
        )
        self.possible = min(self._most, default=1) >= 1
        if home is not None:
            self.possible &= seats[home].most_blocks[1] >= 0 and self._head_seconds <= bound
            if self._apart and self._ram is not None:
                self._ram -= seats[home].ram_bytes[1][0]
        self.possible &= self._ram is None or self._ram >= 0

    def counts(self, count: int) -> list[int] | None:
        """Blocks of each seat used; None where the RAM does not hold them."""
        if not self._used:
            return []
        return fastest_counts(self._rates, self._most, count, self._tables, self._ram)

    def seconds(self) -> Iterator[float]:
        """Seconds of as few blocks as the seats need, one more, ..., as many as they hold.

        Blocks go to the fastest seat with room. Once the RAM holds no more that way, each number
        is divided anew; more blocks take more RAM, so the first that does not fit is the last.
        """
        if not self.possible:
            return
        counts = [1] * len(self._used)
        taken = sum(table[1] for table in self._tables)
        seconds = self._fixed + sum(self._rates)
        place = 0
        for count in range(len(counts), min(self._blocks, sum(self._most)) + 1):
            if count > len(counts):
                while counts[place] >= self._most[place]:
                    place += 1
                table, held = self._tables[place], counts[place]
                counts[place] = held + 1
                taken += table[held + 1] - table[held]
                seconds += self._rates[place]
            if self._ram is None or taken <= self._ram:
                yield seconds
                continue
            divided = self.counts(count)
            if divided is None:
                return
            yield self._fixed + sum(
                number * rate for number, rate in zip(divided, self._rates, strict=True)
            )

    def option(self, counts: Sequence[int]) -> HostOption:
        """Spell out one division."""
        times = [number * rate for number, rate in zip(counts, self._rates, strict=True)]
        stages = [time + extra for time, extra in zip(times, self._heads, strict=True)]
        runs = [(s, n) for s, n in zip(self._used, counts, strict=True) if s != self._home]
        if self._home is not None:
            runs.append((self._home, dict(zip(self._used, counts, strict=True)).get(self._home, 0)))
        slowest = max([*stages, self._head_seconds])
        return HostOption(self._fixed + sum(times), slowest, tuple(runs), self._home)


def _within(rate: float, extra: float, bound: float, blocks: int) -> int:
    """The most blocks whose time, with lm_head's `extra`, does not pass the bound."""
    if rate <= 0 or bound == inf:
        return blocks if extra <= bound else 0
    count = min(blocks, int((bound - extra) / rate) + 1)
    while count > 0 and count * rate + extra > bound:
        count -= 1
    return count
