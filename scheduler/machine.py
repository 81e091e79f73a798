"""Machine: a host, real or planned, with its speeds and a name, to ask capacity questions about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from scheduler.choose import Devices
from scheduler.cost import SpeedProvenance, Speeds
from scheduler.device_profiles import GpuProfile
from scheduler.estimates import estimated_speed
from scheduler.free_memory import free_of_gpus, free_of_ram
from scheduler.hardware import Gpu, Host, Planned
from scheduler.planned_host import VRAM_SHARE_BYTES
from scheduler.request import PlanRequest

_LEAST_CERTAIN_FIRST: tuple[SpeedProvenance, ...] = ("estimated", "calibrated", "measured")
_CARD_BACKEND = "mnn:cuda"


@dataclass(frozen=True)
class Machine:
    """What a model is asked to run on; `speeds` knows every device of the host."""

    name: str
    host: Host
    speeds: Speeds = field(hash=False)

    def devices(self, request: PlanRequest) -> Devices:
        """Free memory and speed of every device, as the planner takes them."""
        return Devices(
            free_of_gpus(request, self.host),
            free_of_ram(request, self.host),
            self.speeds,
            self.threads,
        )

    @property
    def threads(self) -> int:
        """Threads of a stage on the CPU: one per usable core."""
        return self.host.cpu.usable_cores

    @property
    def vram_bytes(self) -> tuple[int, ...]:
        """Free memory of every GPU in order; 0 where it is unknown, as nothing is placed there."""
        return tuple(gpu.free_bytes or 0 for gpu in self.host.gpus)

    @property
    def ram_bytes(self) -> int:
        """RAM available to all processes."""
        return self.host.cpu.available_bytes

    @property
    def ram_total_bytes(self) -> int:
        """RAM that there is; between the two a model runs only by pushing others out."""
        return max(self.host.cpu.total_bytes, self.ram_bytes)

    def with_vram(self, free_bytes: int, gpu: int = 0) -> Machine:
        """The same machine with another amount of free memory on one GPU."""
        gpus = list(self.host.gpus)
        device = gpus[gpu].name
        gpus[gpu] = replace(gpus[gpu], free_bytes=free_bytes)
        own = self.host.planned.get(device, Planned("given"))
        planned = {**self.host.planned, device: replace(own, memory_provenance="given")}
        return replace(self, host=replace(self.host, gpus=tuple(gpus), planned=planned))

    def without_gpus(self) -> Machine:
        """The same machine with its processor alone."""
        bare = replace(self.host, gpus=())
        return replace(self, name=name_of(bare), host=bare)

    def with_card(self, card: GpuProfile) -> Machine:
        """The same machine with one new NVIDIA card in place of whatever GPUs it has."""
        free_bytes = max(0, card.memory_bytes - VRAM_SHARE_BYTES)
        gpu = Gpu("gpu0", card.name, card.memory_bytes, free_bytes)
        own = {name: how for name, how in self.host.planned.items() if name == "cpu"}
        planned = {**own, gpu.name: Planned("estimated", _CARD_BACKEND)}
        devices = {
            gpu.name: estimated_speed(card, _CARD_BACKEND),
            "cpu": self.speeds.devices["cpu"],
        }
        return Machine(
            card.name,
            replace(self.host, gpus=(gpu,), planned=planned),
            Speeds(devices, self.speeds.hop),
        )

    def speed_provenance(self, devices: Iterable[str]) -> SpeedProvenance:
        """How sure the least certain speed constants among these devices are."""
        return least_certain([self.speeds.devices[device].provenance for device in devices])


def least_certain(provenances: Iterable[SpeedProvenance]) -> SpeedProvenance:
    """The one that a number made from several of them deserves."""
    return min(provenances, key=_LEAST_CERTAIN_FIRST.index)


def name_of(host: Host) -> str:
    """Name a host by its graphics cards: ``2x GeForce RTX 3090``, else by its processor."""
    names = [gpu.model_name for gpu in host.gpus]
    return " + ".join(_counted(names)) or f"{host.cpu.model_name}, no GPU"


def _counted(names: Sequence[str]) -> list[str]:
    unique = dict.fromkeys(names)
    return [name if names.count(name) == 1 else f"{names.count(name)}x {name}" for name in unique]
