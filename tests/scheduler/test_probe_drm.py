"""AMD's and Intel's GPUs in sysfs: trees of real files, as the kernel's drivers lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.probe.drm import read_cards

GIB, MIB = 1024**3, 1024**2


def card(root: Path, number: int, uevent: str, files: dict[str, object]) -> None:
    """A card whose `device` is a symbolic link into the PCI devices, as in /sys."""
    lines = dict(line.split("=") for line in uevent.split())
    device = root / "sys/devices/pci0000:00" / lines.get("PCI_SLOT_NAME", f"other{number}")
    device.mkdir(parents=True)
    (device / "uevent").write_text("\n".join(uevent.split()) + "\n")
    shown = root / f"sys/class/drm/card{number}"
    shown.mkdir(parents=True)
    (shown / "device").symlink_to(device)
    (root / f"sys/class/drm/card{number}-DP-1").mkdir()
    for name, content in files.items():
        file = shown / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


AMD = "DRIVER=amdgpu PCI_ID=1002:744C PCI_SLOT_NAME=0000:03:00.0"
XE = "DRIVER=xe PCI_ID=8086:E20B PCI_SLOT_NAME=0000:04:00.0"
I915 = "DRIVER=i915 PCI_ID=8086:56A0 PCI_SLOT_NAME=0000:05:00.0"


def test_amd_tells_total_used_and_gtt(tmp_path: Path) -> None:
    memory = {
        "device/mem_info_vram_total": 24 * GIB,
        "device/mem_info_vram_used": 2 * GIB,
        "device/mem_info_gtt_total": 16 * GIB,
        "device/mem_info_gtt_used": MIB,
    }
    card(tmp_path, 1, AMD, memory)
    (found,), (note,) = read_cards(tmp_path)
    assert (found.vendor_id, found.device_id) == (0x1002, 0x744C)
    assert (found.total_bytes, found.free_bytes) == (24 * GIB, 22 * GIB)
    assert (found.source, found.pci_address) == ("sysfs", "0000:03:00.0")
    assert "16.00 GiB of RAM (GTT)" in note


@pytest.mark.parametrize("used", [None, "", "-1", "n/a"])
def test_memory_in_use_that_cannot_be_read_leaves_free_memory_unknown(
    tmp_path: Path, used: str | None
) -> None:
    memory: dict[str, object] = {"device/mem_info_vram_total": 24 * GIB}
    if used is not None:
        memory["device/mem_info_vram_used"] = used
    card(tmp_path, 0, AMD, memory)
    (found,), _notes = read_cards(tmp_path)
    assert (found.total_bytes, found.free_bytes) == (24 * GIB, None)


def test_more_in_use_than_there_is_leaves_nothing(tmp_path: Path) -> None:
    memory = {"device/mem_info_vram_total": GIB, "device/mem_info_vram_used": 2 * GIB}
    card(tmp_path, 0, AMD, memory)
    assert read_cards(tmp_path)[0][0].free_bytes == 0


def test_intel_tells_totals_only(tmp_path: Path) -> None:
    tiles = {f"device/tile{n}/physical_vram_size_bytes": 8 * GIB for n in (0, 1)}
    card(tmp_path, 0, I915, {"lmem_total_bytes": 16 * GIB})
    card(tmp_path, 1, XE, tiles)
    found, _notes = read_cards(tmp_path)
    assert [(one.pci_address, one.total_bytes, one.free_bytes) for one in found] == [
        ("0000:04:00.0", 16 * GIB, None),
        ("0000:05:00.0", 16 * GIB, None),
    ]


def test_a_card_without_figures_is_a_sentence(tmp_path: Path) -> None:
    card(tmp_path, 0, I915, {})
    found, (note,) = read_cards(tmp_path)
    assert found == []
    assert "i915 tells no memory of the GPU at 0000:05:00.0" in note
    assert "--vram" in note


@pytest.mark.parametrize(
    "uevent",
    [
        "DRIVER=ast PCI_ID=1A03:2000 PCI_SLOT_NAME=0000:06:00.0",  # a server's own display
        "DRIVER=nvidia PCI_ID=10DE:2204 PCI_SLOT_NAME=0000:07:00.0",  # NVML's
        "DRIVER=vkms",
        "DRIVER=amdgpu PCI_ID=nonsense PCI_SLOT_NAME=0000:08:00.0",
    ],
)
def test_other_cards_are_passed_over(tmp_path: Path, uevent: str) -> None:
    card(tmp_path, 0, uevent, {"device/mem_info_vram_total": GIB})
    assert read_cards(tmp_path) == ([], [])


def test_a_machine_without_cards(tmp_path: Path) -> None:
    assert read_cards(tmp_path) == ([], [])
