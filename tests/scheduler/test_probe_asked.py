"""Vulkan, DXGI and Metal: child processes, real and stand-in drivers, what is made of answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.probe import dxgi_query, metal_query
from scheduler.probe.asked import ask, read_answer
from scheduler.probe.gpus import probe_all_gpus
from tests.support.webgpu import environment as software_driver
from tests.support.webgpu import require_driver

GIB, MIB = 1024**3, 1024**2
Environment = Callable[..., dict[str, str]]
RADEON = "AMD Radeon RX 7900 XTX (RADV NAVI31)|1002|744c|2|0000:03:00.0|24560|23000|100"
UHD = "Intel(R) UHD Graphics 770 (ADL-S GT1)|8086|4680|1|0000:00:02.0|31744|20000|0"
GEFORCE = "NVIDIA GeForce RTX 3090|10de|2204|2|0000:0a:00.0|24576|20000|0"


def test_the_real_software_driver_is_no_gpu() -> None:
    require_driver()
    found, (note,) = ask("Vulkan", os.environ | software_driver())
    assert found == []
    assert "SwiftShader" in note
    assert "computes on the CPU and counts as no GPU" in note


def test_a_budget_less_what_is_used_is_free(fake_vulkan: Environment) -> None:
    (found,), notes = ask("Vulkan", fake_vulkan(gpus=RADEON))
    assert notes == []
    assert (found.total_bytes, found.free_bytes) == (24560 * MIB, 22900 * MIB)
    assert (found.vendor_id, found.device_id, found.kind) == (0x1002, 0x744C, "discrete")
    assert (found.pci_address, found.uuid) == ("0000:03:00.0", "a0" * 16)


def test_a_budget_beyond_the_heap_is_cut_to_it(fake_vulkan: Environment) -> None:
    (found,), _notes = ask("Vulkan", fake_vulkan(gpus="A|1|1|2|-|1000|5000|0"))
    assert found.free_bytes == 1000 * MIB


def test_without_the_extension_free_memory_is_unknown(fake_vulkan: Environment) -> None:
    (found,), _notes = ask("Vulkan", fake_vulkan(gpus="A|1|1|2|-|1000|-|0"))
    assert (found.total_bytes, found.free_bytes, found.pci_address) == (1000 * MIB, None, None)


@pytest.mark.parametrize(
    ("ill", "said"),
    [
        ("crash", "failed while it was asked"),
        ("hang", "did not answer within 0.5 seconds"),
        ("refuse", "vkCreateInstance returned -3"),
    ],
)
def test_an_ill_driver_is_a_sentence(fake_vulkan: Environment, ill: str, said: str) -> None:
    timeout_s = 0.5 if ill == "hang" else 10.0
    found, (note,) = ask("Vulkan", fake_vulkan(ill=ill, gpus=RADEON), timeout_s)
    assert found == []
    assert said in note
    assert note.endswith(".")


def test_a_machine_without_vulkan_says_nothing(tmp_path: Path) -> None:
    # A library that cannot be read stands before any that this machine may have.
    (tmp_path / "libvulkan.so.1").write_text("not a library")
    assert ask("Vulkan", {"LD_LIBRARY_PATH": str(tmp_path)}) == ([], [])


def test_a_whole_machine(fake_vulkan: Environment, tmp_path: Path) -> None:
    amd = tmp_path / "sys/class/drm/card1/device"
    amd.mkdir(parents=True)
    (amd / "uevent").write_text("DRIVER=amdgpu\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:03:00.0\n")
    (amd / "mem_info_vram_total").write_text(f"{24560 * MIB}\n")
    (amd / "mem_info_vram_used").write_text(f"{560 * MIB}\n")
    listed = fake_vulkan(gpus=";".join([UHD, RADEON, GEFORCE]))
    gpus, notes = probe_all_gpus(listed, "linux", tmp_path)
    # NVML did not answer, so Vulkan's word on the GeForce holds. The integrated one comes last.
    assert [(gpu.name, gpu.model_name, gpu.memory_source) for gpu in gpus] == [
        ("gpu0", "AMD Radeon RX 7900 XTX", "sysfs"),
        ("gpu1", "NVIDIA GeForce RTX 3090", "Vulkan"),
        ("gpu2", "Intel(R) UHD Graphics 770", "Vulkan"),
    ]
    assert [gpu.free_bytes for gpu in gpus] == [24000 * MIB, 20000 * MIB, 20000 * MIB]
    assert [gpu.shares_ram for gpu in gpus] == [False, False, True]
    assert not any("--vram" in note for note in notes)


def test_unknown_memory_has_to_be_stated(fake_vulkan: Environment, tmp_path: Path) -> None:
    listed = fake_vulkan(gpus="Unheard 9|1234|1|2|-|8192|-|0")
    (gpu,), notes = probe_all_gpus(listed, "linux", tmp_path)
    assert (gpu.free_bytes, gpu.total_bytes) == (None, 8192 * MIB)
    assert "gpu0 (Unheard 9): its free memory is unknown; state it with --vram." in notes


def test_vulkan_is_not_asked_where_there_is_no_device_file(
    fake_vulkan: Environment, tmp_path: Path
) -> None:
    listed = fake_vulkan(gpus=RADEON) | {"VK_DRIVER_FILES": ""}
    assert probe_all_gpus(listed, "linux", tmp_path)[0] == ()
    (tmp_path / "dev/dri").mkdir(parents=True)
    assert len(probe_all_gpus(listed, "linux", tmp_path)[0]) == 1


def adapter(**values: Any) -> dxgi_query.Description:
    description = dxgi_query.Description()
    for at, letter in enumerate(values.pop("name")):
        description.name[at] = ord(letter)
    for name, value in values.items():
        setattr(description, name, value)
    return description


def test_dxgi_budgets() -> None:
    card = adapter(name="Radeon", vendor=0x1002, device=0x744C, dedicated_video=24 * GIB)
    shared = adapter(
        name="UHD", vendor=0x8086, device=0x4680, dedicated_video=128 * MIB, shared_system=8 * GIB
    )
    software = adapter(name="Microsoft Basic Render Driver", vendor=0x1414, flags=2)
    memory = dxgi_query.MemoryInfo
    devices = [
        dxgi_query.described(card, memory(23 * GIB, 1 * GIB)),
        dxgi_query.described(shared, memory(7 * GIB, 0)),
        dxgi_query.described(software, None),
    ]
    (discrete, integrated), (note,) = read_answer("DXGI", {"devices": devices})
    assert (discrete.model_name, discrete.free_bytes) == ("Radeon", 22 * GIB)
    assert (discrete.total_bytes, discrete.kind) == (24 * GIB, "discrete")
    assert (integrated.free_bytes, integrated.kind) == (7 * GIB, "integrated")
    assert integrated.total_bytes == 8 * GIB + 128 * MIB
    assert "Microsoft Basic Render Driver" in note


def test_dxgi_without_the_call_leaves_free_memory_unknown() -> None:
    told = dxgi_query.described(adapter(name="Old", dedicated_video=2 * GIB), None)
    (found,), _notes = read_answer("DXGI", {"devices": [told]})
    assert (found.total_bytes, found.free_bytes) == (2 * GIB, None)


def test_metal_counts_unified_memory_only() -> None:
    devices = [
        metal_query.described("Apple M2 Max", 48 * GIB, GIB, True),
        metal_query.described("AMD Radeon Pro 5500M", 8 * GIB, 0, False),
    ]
    (apple, other), _notes = read_answer("Metal", {"devices": devices})
    assert (apple.free_bytes, apple.kind, apple.vendor_id) == (47 * GIB, "integrated", 0x106B)
    assert (other.free_bytes, other.kind) == (None, "discrete")


@pytest.mark.parametrize("library", ["DXGI", "Metal"])
def test_elsewhere_there_is_no_dxgi_and_no_metal(library: Any) -> None:
    assert ask(library, {}) == ([], [])
