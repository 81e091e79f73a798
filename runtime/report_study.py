"""What a report is asked about: names and numbers as options give them, looked up and checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from scheduler.errors import UserInputError
from scheduler.units import parse_size
from scheduler.wording import shorten

if TYPE_CHECKING:
    from scheduler.hardware import Host
    from scheduler.machine import Machine
    from scheduler.plan import Precision
    from scheduler.report.study import Study
    from scheduler.request import Policy
    from scheduler.wanted import Wanted

USUAL_CARDS = (
    "GeForce GTX 1650",
    "GeForce RTX 2060 6 GB",
    "GeForce RTX 4060",
    "GeForce RTX 2080 Ti",
    "GeForce RTX 3060 12 GB",
    "GeForce RTX 4060 Ti 16 GB",
    "GeForce RTX 4090",
)
"""One card for each common amount of memory, 4 to 24 GiB, for a machine that has none."""

_PRECISIONS = ("fp32", "fp16", "int8", "int4")
_SEVERAL = re.compile(r"([1-8])\s*[x×]\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """The options of `glm-plan report`, as typed; each can be repeated to compare."""

    models: tuple[str, ...]
    gpus: tuple[str, ...]
    vram: tuple[str, ...]
    cpu: str | None
    rams: tuple[str, ...]
    precisions: tuple[str, ...]
    contexts: tuple[int, ...]
    slots: tuple[int, ...]
    policy: str
    target_tps: float | None

    def study(self, more_words: Sequence[str]) -> Study:
        """Look everything up. `more_words` end the command that makes the report again.

        Raises UserInputError for unknown names and for numbers that make no sense.
        """
        from datetime import date

        from runtime.on_disk import spec_by_name
        from scheduler.profiles import load_gpus
        from scheduler.report.study import Study

        self.check()
        models = [spec_by_name(name) for name in self.models]
        return Study(
            models=list({model.name: model for model in models}.values()),
            machines=list(map(self._calibrated, self._machines())),
            catalogue=load_gpus() if self.target_tps is not None else (),
            precisions=list(dict.fromkeys(map(read_precision, self.precisions))),
            contexts=list(dict.fromkeys(self.contexts)) or [None],
            slots=list(dict.fromkeys(self.slots)),
            policy=cast("Policy", self.policy),
            target_tps=self.target_tps,
            command=shlex.join(["glm-plan", "report", *self.words(), *more_words]),
            version=report_version(),
            date=date.today().isoformat(),
        )

    def check(self) -> None:
        """Raise UserInputError for numbers that make no sense."""
        from scheduler.request import LARGEST_SLOTS

        for context in self.contexts:
            if context < 1:
                raise UserInputError(f"--context is {context}; expected 1 token or more.")
        for slots in self.slots:
            if not 1 <= slots <= LARGEST_SLOTS:
                raise UserInputError(f"--slots is {slots}; expected 1 to {LARGEST_SLOTS}.")
        target = self.target_tps
        if target is not None and not 0 < target < float("inf"):
            raise UserInputError(f"--target-tps is {target:g}; expected a rate above 0, such as 5.")

    def _machines(self) -> list[Machine]:
        from scheduler.machine import Machine, name_of
        from scheduler.planned_host import plan_host, recognise
        from scheduler.probe import probe_host
        from scheduler.wanted import Wanted, read_ram

        ram_bytes, ram_class = read_ram(self.rams)
        around = Wanted(cpu=self.cpu, ram_bytes=ram_bytes, ram_class=ram_class)
        here = probe_host()
        if not (self.gpus or self.vram) and recognise(here)[0].gpus:
            host, speeds = recognise(here) if around.nothing else plan_host(around, here)
            return [Machine(name_of(host), host, speeds)]
        bare = replace(here, gpus=(), notes=())
        if self.vram and not self.gpus:
            return [_stated(text, around, bare) for text in self.vram]
        machines = []
        for wanted in self._wanted(around):
            host, speeds = plan_host(wanted, bare)
            machines.append(Machine(name_of(host), host, speeds))
        return list({machine.name: machine for machine in machines}.values())

    def _calibrated(self, machine: Machine) -> Machine:
        """The machine with the speeds that `glm-plan calibrate` found for this processor."""
        from scheduler.calibrated import with_calibration
        from scheduler.machine import Machine

        is_here = self.cpu is None and not self.rams
        host, speeds = with_calibration(
            machine.host, machine.speeds, None, (), is_here, len(machine.host.gpus)
        )
        return Machine(machine.name, host, speeds or machine.speeds)

    def _wanted(self, around: Wanted) -> Iterable[Wanted]:
        """One machine for each --gpu, with the share of --vram that belongs to it."""
        free = [parse_size(text, "--vram") for text in self.vram]
        groups = [read_cards(text) for text in self.gpus or USUAL_CARDS]
        cards = sum(map(len, groups))
        if free and len(free) != cards:
            raise UserInputError(
                f"--gpu names {cards} {'card' if cards == 1 else 'cards'} and --vram states the"
                f" memory of {len(free)}; give one --vram for each, in order, or none."
            )
        for group in groups:
            own, free = free[: len(group)], free[len(group) :]
            yield replace(around, gpus=group, vram_bytes=tuple(own) or None)

    def words(self) -> list[str]:
        """The options, spelled again."""
        flags: list[tuple[str, Sequence[object]]] = [
            ("--model", self.models),
            ("--gpu", self.gpus),
            ("--vram", self.vram),
            ("--cpu", [self.cpu] if self.cpu else []),
            ("--ram", self.rams),
            ("--precision", self.precisions),
            ("--context", self.contexts),
            ("--slots", self.slots),
            ("--policy", [self.policy]),
            ("--target-tps", [] if self.target_tps is None else [f"{self.target_tps:g}"]),
        ]
        return [word for flag, values in flags for value in values for word in (flag, str(value))]


def read_precision(text: str) -> tuple[Precision, Precision]:
    """Read ``int4`` (both sides) or ``fp16/fp32`` (GPU, then CPU)."""
    parts = [part.strip().lower() for part in text.split("/")]
    if len(parts) > 2 or any(part not in _PRECISIONS for part in parts):
        raise UserInputError(
            f"--precision is {shorten(text)}; expected one of {', '.join(_PRECISIONS)}, or two with"
            " a slash for GPU and CPU, such as fp16/fp32."
        )
    return cast("Precision", parts[0]), cast("Precision", parts[-1])


def read_cards(text: str) -> tuple[str, ...]:
    """Read the cards of one machine: ``RTX 3090``, ``2x RTX 3090`` or ``RTX 3090 + RTX 3060``."""
    cards: list[str] = []
    for part in text.split(" + "):
        several = _SEVERAL.fullmatch(part.strip())
        cards += [several[2]] * int(several[1]) if several else [part.strip()]
    return tuple(cards)


def _stated(text: str, around: Wanted, bare: Host) -> Machine:
    """A machine with a card of which only the free memory is known."""
    from scheduler.estimates import estimated_speeds
    from scheduler.hardware import Gpu, Planned
    from scheduler.machine import Machine
    from scheduler.planned_host import plan_host
    from scheduler.units import format_size

    free_bytes = parse_size(text, "--vram")
    host, speeds = (bare, estimated_speeds(bare)) if around.nothing else plan_host(around, bare)
    card = Gpu("gpu0", f"a GPU with {format_size(free_bytes)}", None, free_bytes)
    host = replace(host, gpus=(card,), planned={**host.planned, "gpu0": Planned("given")})
    unknown = estimated_speeds(None, ["gpu0"]).devices["gpu0"]
    devices = {**speeds.devices, "gpu0": unknown}
    return Machine(card.model_name, host, replace(speeds, devices=devices))


def report_version() -> str:
    """The version that a report says it was made by."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("glm-plan")
    except PackageNotFoundError:
        return "from source"
