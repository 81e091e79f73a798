"""GPUs seen in several ways, counted once: property tests over machines of known GPUs."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.probe.sighting import Sighting, as_gpu, merged

SYSFS = Sighting("sysfs", 0x1002, 0x744C, None, 24, 20, None, "0000:03:00.0")
VULKAN = Sighting(
    "Vulkan", 0x1002, 0x744C, "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24, 23, "discrete",
    "0000:03:00.0", "a0",
)  # fmt: skip


def test_sysfs_counts_and_vulkan_names() -> None:
    (one,) = merged([SYSFS, VULKAN])
    gpu = as_gpu(one, "gpu0")
    assert (gpu.free_bytes, gpu.used_bytes, gpu.memory_source) == (20, 4, "sysfs")
    assert (gpu.model_name, gpu.vendor) == ("AMD Radeon RX 7900 XTX", "AMD")


def test_vulkan_fills_in_what_sysfs_does_not_tell() -> None:
    blind = dataclasses.replace(SYSFS, free_bytes=None)
    (one,) = merged([blind, VULKAN])
    assert (one.source, one.free_bytes) == ("Vulkan", 23)


def test_an_integrated_gpu_is_more_than_what_the_firmware_set_aside() -> None:
    whole = dataclasses.replace(VULKAN, kind="integrated", total_bytes=60, free_bytes=50)
    (one,) = merged([SYSFS, whole])
    gpu = as_gpu(one, "gpu0")
    assert (gpu.total_bytes, gpu.free_bytes, gpu.shares_ram) == (60, 50, True)
    assert gpu.memory_source == "Vulkan"


def test_two_drivers_of_one_card_are_one_gpu() -> None:
    other = dataclasses.replace(VULKAN, uuid="a1", model_name="AMD Radeon RX 7900 XTX")
    assert len(merged([VULKAN, other])) == 1


def test_without_a_common_identity_the_same_model_counts_once() -> None:
    nameless = dataclasses.replace(VULKAN, pci_address=None)
    assert len(merged([SYSFS, nameless])) == 1


def test_two_equal_adapters_of_one_source_are_two() -> None:
    first = Sighting("DXGI", 0x1002, 0x744C, "A", 24, 20, luid="01")
    assert len(merged([first, dataclasses.replace(first, luid="02")])) == 2


@pytest.mark.parametrize(("total", "source"), [(None, None), (8, "Vulkan")])
def test_unknown_stays_unknown(total: int | None, source: str | None) -> None:
    gpu = as_gpu(Sighting("Vulkan", 0x8086, 0x56A0, total_bytes=total), "gpu0")
    assert (gpu.total_bytes, gpu.free_bytes, gpu.used_bytes) == (total, None, None)
    assert gpu.memory_source == source
    assert gpu.model_name == "Intel GPU 8086:56a0"


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.booleans())
def test_each_gpu_is_counted_once_in_any_mixture(seen: list[str], by_bus: bool) -> None:
    """Every GPU that was seen by bus address or UUID, and no other."""

    def sighting(number: int, gpu: str) -> Sighting:
        identity = {"pci_address": gpu} if by_bus else {"uuid": gpu}
        return Sighting(f"source{number}", 1, 1, total_bytes=1, **identity)  # type: ignore[arg-type]

    found = merged(sighting(number, gpu) for number, gpu in enumerate(seen))
    assert len(found) == len(set(seen))
