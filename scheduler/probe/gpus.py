"""Every GPU of this machine, whoever made it, each once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scheduler.hardware import Gpu
from scheduler.probe.asked import ask
from scheduler.probe.drm import read_cards
from scheduler.probe.nvml import read_nvml
from scheduler.probe.sighting import NVIDIA, Sighting, as_gpu, merged

# Names that make the Vulkan loader use certain drivers.
_DRIVER_SETTINGS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES")
# Where Linux shows GPUs to processes: native, and inside Windows' subsystem.
_DEVICE_FILES = ("dev/dri", "dev/dxg")


def probe_all_gpus(
    environment: Mapping[str, str], platform: str, root: Path
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """NVIDIA's GPUs in the order of CUDA, then the others: those with memory of their own first.

    The most trusted source comes first: NVML, then sysfs, DXGI or Metal, then Vulkan. Where NVML
    answers it alone speaks for NVIDIA's GPUs, so that a hidden one stays hidden. Unknown memory is
    None, never a guess. On Linux, files are read below `root`.
    """
    nvml = read_nvml(environment, platform)
    sightings: list[Sighting] = []
    notes: list[str] = []

    def add(answer: tuple[list[Sighting], list[str]]) -> None:
        sightings.extend(answer[0])
        notes.extend(answer[1])

    if platform == "darwin":
        add(ask("Metal", environment))
    elif platform == "win32":
        add(ask("DXGI", environment))
        add(ask("Vulkan", environment))
    elif platform.startswith("linux"):
        add(read_cards(root))
        if _may_have_vulkan(environment, root):
            add(ask("Vulkan", environment))
    others = [one for one in merged(sightings) if not (nvml.answered and one.vendor_id == NVIDIA)]
    others.sort(key=lambda one: one.kind == "integrated")
    gpus = [
        *nvml.gpus,
        *(as_gpu(one, f"gpu{number}") for number, one in enumerate(others, len(nvml.gpus))),
    ]
    notes += [
        f"{gpu.name} ({gpu.model_name}): its free memory is unknown; state it with --vram."
        for gpu in gpus[len(nvml.gpus) :]
        if gpu.free_bytes is None
    ]
    return tuple(gpus), (*nvml.notes, *notes)


def _may_have_vulkan(environment: Mapping[str, str], root: Path) -> bool:
    """Without a device file there is nothing but drivers in software, which cost time to load."""
    return any(environment.get(name) for name in _DRIVER_SETTINGS) or any(
        (root / name).exists() for name in _DEVICE_FILES
    )
