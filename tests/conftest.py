"""Fixtures shared by planner, command-line and end-to-end tests."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.compiled import compile_library

_REPOSITORY = Path(__file__).parents[1]

# How long an example takes says more about the machine than about the program.
settings.register_profile("glm-plan", deadline=None)
settings.load_profile("glm-plan")


@pytest.fixture(autouse=True, scope="session")
def empty_model_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the models that whoever runs the tests has pulled or exported out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLM_PLAN_DATA_DIR", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(autouse=True)
def ordinary_floating_point() -> None:
    """Undo what MNN does to a process that loads it: it flushes subnormal numbers to zero.

    Hypothesis refuses to draw floats in such a process. FE_DFL_ENV is the pointer -1 in glibc.
    """
    if sys.platform.startswith("linux") and "MNN" in sys.modules:
        ctypes.CDLL("libm.so.6").fesetenv(ctypes.c_void_p(-1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured: the properties called "figure" that they recorded."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    figures = [text for one in reports for name, text in one.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.line(str(text))


@pytest.fixture(scope="session")
def fake_nvml_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a stand-in `libnvidia-ml.so.1`, built from tests/support/fake_nvml.c."""
    folder = tmp_path_factory.mktemp("fake-nvml")
    compile_library(_REPOSITORY / "tests/support/fake_nvml.c", folder / "libnvidia-ml.so.1")
    return folder


@pytest.fixture
def fake_nvml(fake_nvml_dir: Path) -> Callable[..., dict[str, str]]:
    """Environments for child processes that shall see the stand-in's GPUs.

    Call it with the settings of fake_nvml.c in lower case without their prefix:
    `fake_nvml(gpus="RTX 3090|24576|20480")`. Keyword arguments in upper case are set as they are.
    """

    def environment(**settings: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FAKE_NVML_", "CUDA_"))
        }
        added = {
            name if name.isupper() else f"FAKE_NVML_{name.upper()}": value
            for name, value in settings.items()
        }
        paths = {"LD_LIBRARY_PATH": str(fake_nvml_dir), "PYTHONPATH": str(_REPOSITORY)}
        return kept | paths | added

    return environment


@pytest.fixture(scope="session")
def fake_vulkan_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a stand-in `libvulkan.so.1`, built from tests/support/fake_vulkan.c."""
    folder = tmp_path_factory.mktemp("fake-vulkan")
    compile_library(_REPOSITORY / "tests/support/fake_vulkan.c", folder / "libvulkan.so.1")
    return folder


@pytest.fixture
def fake_vulkan(fake_vulkan_dir: Path) -> Callable[..., dict[str, str]]:
    """Environments in which the stand-in is Vulkan: `fake_vulkan(gpus=..., ill=...)`."""

    def environment(**settings: str) -> dict[str, str]:
        added = {f"FAKE_VULKAN_{name.upper()}": value for name, value in settings.items()}
        return {"LD_LIBRARY_PATH": str(fake_vulkan_dir), "VK_DRIVER_FILES": "stand-in", **added}

    return environment
