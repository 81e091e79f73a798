"""What macOS and Windows tell about the processor."""

from __future__ import annotations

import platform as python_platform
import subprocess
import sys

from scheduler.probe.linux_cpu import WANTED_INSTRUCTION_SETS, CpuDescription

# macOS: sysctl names of Arm features (1 where present), and the words of its Intel lists.
_SYSCTL_ARM = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
_SYSCTL_INTEL = {
    "SSE4.2": "sse4_2",
    "AVX1.0": "avx",
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX512F": "avx512f",
    "AVX512VNNI": "avx512_vnni",
}
# Windows: numbers of IsProcessorFeaturePresent (winnt.h); it has none for FMA, F16C, VNNI or AMX.
_WINDOWS_FEATURES = {
    38: "sse4_2",
    39: "avx",
    40: "avx2",
    41: "avx512f",
    19: "asimd",
    43: "asimddp",
    46: "sve",
    47: "sve2",
    66: "i8mm",
    67: "asimdhp",
    68: "bf16",
    70: "sme",
}


def describe(platform: str) -> CpuDescription:
    """Ask sysctl on macOS, registry and kernel on Windows; elsewhere only what Python knows."""
    if platform == "darwin":
        return parse_sysctl(_sysctl())
    if platform == "win32":
        return CpuDescription(_registry_name(), _in_order(_windows_features()))
    return CpuDescription(python_platform.processor() or None, ())


def parse_sysctl(text: str) -> CpuDescription:
    """Read the output of `sysctl machdep.cpu hw.optional`: one `name: value` a line."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        values[name.strip()] = value.strip()
    found = {feature for name, feature in _SYSCTL_ARM.items() if values.get(name) == "1"}
    lists = (values.get(f"machdep.cpu.{name}", "") for name in ("features", "leaf7_features"))
    words = " ".join(lists).split()
    found |= {feature for word, feature in _SYSCTL_INTEL.items() if word in words}
    return CpuDescription(values.get("machdep.cpu.brand_string") or None, _in_order(found))


def _in_order(found: set[str]) -> tuple[str, ...]:
    return tuple(name for name in WANTED_INSTRUCTION_SETS if name in found)


def _sysctl() -> str:
    try:
        # A machine without one of the two trees still prints the other, with exit code 1.
        return subprocess.run(
            ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _registry_name() -> str | None:
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(
            winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        ) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip() or None
    except OSError:
        return None


def _windows_features() -> set[str]:
    if sys.platform != "win32":
        return set()
    import ctypes

    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return {feature for number, feature in _WINDOWS_FEATURES.items() if present(number)}
