"""A GPU in software: the Vulkan driver that Debian's chromium package ships.

WebGPU asks the Vulkan loader for drivers, and both come with the browser. Processes started with
`environment()` see that one device, with memory and copies of its own.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

_FOLDER = Path("/usr/lib/chromium")
_DRIVER = _FOLDER / "vk_swiftshader_icd.json"
_LOADER = _FOLDER / "libvulkan.so.1"


def environment() -> dict[str, str]:
    """What a process needs in its environment, and before it starts, to see the device."""
    found = os.environ.get("LD_LIBRARY_PATH")
    return {
        "VK_DRIVER_FILES": str(_DRIVER),
        "VK_ICD_FILENAMES": str(_DRIVER),
        "LD_LIBRARY_PATH": f"{_FOLDER}{os.pathsep + found if found else ''}",
    }


def require_driver() -> None:
    """Skip, saying why, where the driver is missing; fail there in CI."""
    _require(_missing_files())


def require_device() -> None:
    """As `require_driver`, for tests that run ONNX Runtime on the device."""
    if sys.version_info < (3, 11):
        pytest.skip("onnxruntime-webgpu has no wheel for Python 3.10")
    package = [] if find_spec("onnxruntime") else ["onnxruntime-webgpu"]
    _require(_missing_files() + package)


def _missing_files() -> list[str]:
    return [str(path) for path in (_DRIVER, _LOADER) if not path.is_file()]


def _require(missing: list[str]) -> None:
    if not missing:
        return
    reason = f"no software Vulkan device: {', '.join(missing)} missing (Debian: chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
