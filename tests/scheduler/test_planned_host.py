"""Machines from the names of their parts, and GPUs that are here looked up by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.errors import UserInputError
from scheduler.hardware import Cpu, Gpu, Host, Planned
from scheduler.planned_host import RAM_SHARE_BYTES, plan_host, recognise
from scheduler.units import GIB
from scheduler.wanted import Wanted, read_ram

HERE = Host(Cpu("this CPU", 8, 6, 16 * GIB, 10 * GIB, ("avx2",)), notes=("a note",))


def test_what_is_not_named_is_from_here() -> None:
    host, speeds = plan_host(Wanted(gpus=("RTX 2080 Ti",)), HERE)
    assert host.cpu == HERE.cpu
    assert "a note" in host.notes
    assert "this CPU with 6 cores" in speeds.devices["cpu"].source
    assert "cpu" not in host.planned  # its memory is measured


def test_a_named_processor_brings_its_memory_class() -> None:
    host, speeds = plan_host(Wanted(cpu="Ryzen 9 7950X"), HERE)
    assert (host.cpu.usable_cores, host.cpu.available_bytes) == (16, 10 * GIB)
    assert "dual DDR5-5200" in speeds.devices["cpu"].source
    _, faster = plan_host(Wanted(cpu="Ryzen 9 7950X", ram_class="dual DDR5-6400"), HERE)
    ratio = (
        faster.devices["cpu"].bandwidth_bytes_per_second
        / speeds.devices["cpu"].bandwidth_bytes_per_second
    )
    assert ratio == pytest.approx(6400 / 5200, rel=0.01)


def test_installed_ram_leaves_a_share_to_the_system() -> None:
    host, _ = plan_host(Wanted(ram_bytes=64 * GIB), HERE)
    assert host.cpu.available_bytes == 64 * GIB - RAM_SHARE_BYTES
    assert host.planned["cpu"].memory_provenance == "estimated"
    tiny, _ = plan_host(Wanted(ram_bytes=1 * GIB), HERE)
    assert tiny.cpu.available_bytes == 0


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        ((), (None, None)),
        (("32",), (32 * GIB, None)),
        (("512MiB", "quad DDR4-2400"), (GIB // 2, "quad DDR4-2400")),
        (("12-channel DDR5-4800",), (None, "12-channel DDR5-4800")),
    ],
)
def test_ram_is_an_amount_or_a_class(
    texts: tuple[str, ...], answer: tuple[int | None, str | None]
) -> None:
    assert read_ram(texts) == answer


@pytest.mark.parametrize("text", ["-3", "nan", "inf", "", " ", "1e400"])
def test_an_amount_without_sense_is_refused(text: str) -> None:
    with pytest.raises(UserInputError, match="--ram is"):
        read_ram((text,))


def test_gpus_that_are_here_are_recognised() -> None:
    gpus = (
        Gpu("gpu0", "NVIDIA GeForce RTX 2080 Ti", 11 * GIB, 10 * GIB, bandwidth_gbps=616.0),
        Gpu("gpu1", "NVIDIA Unheard 9", 8 * GIB, 8 * GIB, bandwidth_gbps=300.0),
        Gpu("gpu2", "Jetson AGX Orin 32 GB", 32 * GIB, 20 * GIB),
    )
    host, speeds = recognise(Host(HERE.cpu, gpus))
    assert host.gpus == gpus
    assert "published peaks of GeForce RTX 2080 Ti" in speeds.devices["gpu0"].source
    assert "by its driver" in speeds.devices["gpu1"].source
    assert list(host.planned) == ["gpu2"]
    assert host.planned["gpu2"].shares_ram
    assert host.planned["gpu2"].memory_provenance == "measured"


def test_a_gpu_in_the_processor_is_left_out_of_plans_unless_a_profile_knows_it() -> None:
    gpus = (
        Gpu("gpu0", "AMD Radeon RX 7900 XTX", 24 * GIB, 20 * GIB, vendor="AMD"),
        Gpu(
            "gpu1", "Intel(R) UHD Graphics 770", 30 * GIB, 9 * GIB, vendor="Intel", shares_ram=True
        ),
    )
    host, speeds = recognise(Host(HERE.cpu, gpus))
    assert host.gpus == gpus[:1]
    assert "gpu1 (Intel(R) UHD Graphics 770) is part of the processor" in host.notes[-1]
    assert host.planned == {"gpu0": Planned("measured", "mnn:opencl")}
    assert "published peaks of Radeon RX 7900 XTX" in speeds.devices["gpu0"].source


def test_apple_silicon_is_recognised_by_its_ram() -> None:
    metal = Gpu(
        "gpu0", "Apple M1 Max", 24 * GIB, 20 * GIB, vendor="Apple", memory_source="Metal",
        shares_ram=True,
    )  # fmt: skip
    cpu = replace(HERE.cpu, total_bytes=32 * GIB, available_bytes=22 * GIB)
    host, speeds = recognise(Host(cpu, (metal,)))
    assert host.planned == {"gpu0": Planned("measured", "mnn:metal", shares_ram=True)}
    assert "Apple M1 Max" in speeds.devices["gpu0"].source
