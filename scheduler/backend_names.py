"""What can run a stage on a GPU, and on the CPU: an engine and one of its kinds of device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

Engine = Literal["mnn", "ort"]

GPU_BACKENDS = (
    "mnn:cuda",
    "mnn:opencl",
    "mnn:vulkan",
    "mnn:metal",
    "ort:webgpu",
    "ort:cuda",
    "ort:directml",
    "ort:openvino",
)
CPU_BACKENDS = ("mnn:cpu", "ort:cpu", "ort:openvino")


def engines_of(backends: Iterable[str]) -> tuple[Engine, ...]:
    """The engines of backends such as ``mnn:cpu``, each once."""
    return tuple(dict.fromkeys(cast("Engine", name.partition(":")[0]) for name in backends))
