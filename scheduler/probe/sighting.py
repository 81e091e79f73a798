"""One GPU seen in several ways is one GPU: sightings, put together by the device's identity."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Literal

from scheduler.hardware import Gpu

NVIDIA = 0x10DE
_VENDORS = {NVIDIA: "NVIDIA", 0x1002: "AMD", 0x8086: "Intel", 0x106B: "Apple"}

Kind = Literal["discrete", "integrated"]


@dataclasses.dataclass(frozen=True)
class Sighting:
    """What one source tells of one GPU; None is unknown. Bytes; PCI numbers as PCI-SIG gives them.

    An integrated GPU's memory is the host's RAM. `luid` is Windows' number of an adapter, `uuid` a
    driver's own; both are hexadecimal.
    """

    source: str
    vendor_id: int | None = None
    device_id: int | None = None
    model_name: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    kind: Kind | None = None
    pci_address: str | None = None
    uuid: str | None = None
    luid: str | None = None


def merged(sightings: Iterable[Sighting]) -> list[Sighting]:
    """One sighting per GPU, from sightings with the most trusted source first.

    A GPU's memory comes from the first source that knows what is free of it, or else from the first
    that knows its total. But where a later one tells that it is integrated, the later one's memory
    holds: sysfs shows only the part of RAM that the firmware set aside.
    """
    found: list[Sighting] = []
    for one in sightings:
        place = next((at for at, held in enumerate(found) if _same(held, one)), None)
        if place is None:
            found.append(one)
        else:
            found[place] = _joined(found[place], one)
    return found


def as_gpu(one: Sighting, name: str) -> Gpu:
    """The GPU that the planner sees; fields that only NVML knows stay None."""
    vendor = _VENDORS.get(one.vendor_id or 0)
    told = one.model_name and re.sub(r" \([^()]*\)$", "", one.model_name)  # "(RADV NAVI31)"
    numbers = f"GPU {one.vendor_id or 0:04x}:{one.device_id or 0:04x}"
    known = one.total_bytes is not None and one.free_bytes is not None
    return Gpu(
        name=name,
        model_name=told or f"{vendor or 'unknown'} {numbers}",
        total_bytes=one.total_bytes,
        free_bytes=one.free_bytes,
        used_bytes=max(0, (one.total_bytes or 0) - (one.free_bytes or 0)) if known else None,
        vendor=vendor,
        memory_source=None if one.total_bytes is None and one.free_bytes is None else one.source,
        pci_address=one.pci_address,
        shares_ram=one.kind == "integrated",
    )


def _same(one: Sighting, other: Sighting) -> bool:
    """By the strongest identity that both have; without a common one by vendor and device."""
    for identity in ("pci_address", "uuid", "luid"):
        mine, theirs = getattr(one, identity), getattr(other, identity)
        if mine is not None and theirs is not None:
            return bool(mine == theirs)
    if one.source == other.source or one.vendor_id is None or one.device_id is None:
        return False
    return (one.vendor_id, one.device_id) == (other.vendor_id, other.device_id)


def _joined(held: Sighting, later: Sighting) -> Sighting:
    changes = {
        field.name: getattr(later, field.name)
        for field in dataclasses.fields(Sighting)
        if getattr(held, field.name) is None
    }
    takes_memory = later.free_bytes is not None and (
        held.free_bytes is None or (later.kind == "integrated" and held.kind is None)
    )
    if takes_memory or held.total_bytes is None:
        memory = {name: getattr(later, name) for name in ("source", "total_bytes", "free_bytes")}
        changes |= memory
    else:
        changes.pop("free_bytes", None)
    return dataclasses.replace(held, **changes)
