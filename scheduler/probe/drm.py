"""GPUs of AMD and Intel on Linux, as their kernel drivers describe them in sysfs.

amdgpu: mem_info_vram_total and mem_info_vram_used, mem_info_gtt_total (kernel documentation of
amdgpu, "Misc"). xe: physical_vram_size_bytes of each tile; i915: lmem_total_bytes where it exists.
Neither of Intel's tells what is used: their query of memory regions answers with the whole size
unless the caller has CAP_PERFMON (include/uapi/drm/i915_drm.h, xe_drm.h).
"""

from __future__ import annotations

import re
from pathlib import Path

from scheduler.probe.sighting import Sighting
from scheduler.units import format_size

SOURCE = "sysfs"
_AMD, _INTEL = 0x1002, 0x8086


def read_cards(root: Path) -> tuple[list[Sighting], list[str]]:
    """Every card that tells of memory, in PCI order, and sentences; files below `root`."""
    found, notes = [], []
    for card in (root / "sys/class/drm").glob("card*"):
        if not re.fullmatch(r"card\d+", card.name):
            continue  # card0-HDMI-A-1 is a socket
        identity = _identity(card / "device")
        if identity is None or identity[0] not in (_AMD, _INTEL):
            continue
        vendor, device, address, driver = identity
        total, used = _memory(card)
        if total is None:
            notes.append(
                f"The kernel's driver {driver} tells no memory of the GPU at {address}; where no"
                " other source does, state it with --vram."
            )
            continue
        free = None if used is None else max(0, total - used)
        found.append(Sighting(SOURCE, vendor, device, None, total, free, None, pci_address=address))
        gtt = _number(card / "device/mem_info_gtt_total")
        if gtt:
            notes.append(
                f"The GPU at {address} can also use {format_size(gtt)} of RAM (GTT); plans count"
                " its own memory only."
            )
    return sorted(found, key=lambda one: one.pci_address or ""), sorted(notes)


def _identity(device: Path) -> tuple[int, int, str, str] | None:
    """Vendor, device, PCI address and driver of a PCI device's uevent file."""
    lines = (line.partition("=") for line in _text(device / "uevent").splitlines())
    values = {name: value for name, _, value in lines}
    numbers = re.fullmatch(r"([0-9A-Fa-f]{4}):([0-9A-Fa-f]{4})", values.get("PCI_ID", ""))
    address = values.get("PCI_SLOT_NAME", "").lower()
    if numbers is None or not address:
        return None
    return int(numbers[1], 16), int(numbers[2], 16), address, values.get("DRIVER", "unknown")


def _memory(card: Path) -> tuple[int | None, int | None]:
    """Total and used bytes of a card's own memory."""
    device = card / "device"
    total = _number(device / "mem_info_vram_total")
    if total is not None:
        return total, _number(device / "mem_info_vram_used")
    tiles = [_number(file) for file in device.glob("tile*/physical_vram_size_bytes")]
    sizes = [size for size in tiles if size]
    if sizes:
        return sum(sizes), None
    return _number(card / "lmem_total_bytes") or _number(device / "lmem_total_bytes"), None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
