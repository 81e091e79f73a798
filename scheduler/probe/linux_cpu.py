"""What Linux tells about the processor in /proc/cpuinfo and sysfs, for x86 and Arm."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

# Those that change which kernels an engine picks, in the order they are shown.
WANTED_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)

# Main ID register: implementer 0x41 (Arm) and part numbers, from Arm's technical reference manuals.
_ARM_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse N2",
    0xD4D: "Cortex-A715",
    0xD4F: "Neoverse V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD84: "Neoverse V3",
    0xD8E: "Neoverse N3",
}


@dataclass(frozen=True)
class CpuDescription:
    """Model name (None: not told) and which of WANTED_INSTRUCTION_SETS are there."""

    model_name: str | None
    instruction_sets: tuple[str, ...]


def describe(root: Path = Path("/")) -> CpuDescription:
    """Read model name and instruction sets below the file system `root`."""
    cpuinfo = _text(root / "proc/cpuinfo")
    board = _text(root / "proc/device-tree/model").rstrip("\0\n")
    return CpuDescription(
        model_name=parse_model_name(cpuinfo) or board or None,
        instruction_sets=parse_instruction_sets(cpuinfo),
    )


def parse_model_name(cpuinfo: str) -> str | None:
    """Find the model in the text of /proc/cpuinfo; Arm cores are named by implementer and part.

    Big and little cores of one chip are joined: "Cortex-A76 + Cortex-A55".
    """
    parts: list[str] = []
    implementer = ""
    for key, value in _pairs(cpuinfo):
        if key == "model name" and value:
            return " ".join(value.split())
        if key == "CPU implementer":
            implementer = value
        if key == "CPU part":
            name = _ARM_PARTS.get(_hex(value)) if _hex(implementer) == 0x41 else None
            name = name or f"Arm CPU (implementer {implementer}, part {value})"
            if name not in parts:
                parts.append(name)
    return " + ".join(parts) or None


def parse_instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """Find the wanted instruction sets in the text of /proc/cpuinfo: those that every core has."""
    common: set[str] | None = None
    for key, value in _pairs(cpuinfo):
        if key in ("flags", "Features"):
            flags = set(value.split())
            common = flags if common is None else common & flags
    return tuple(name for name in WANTED_INSTRUCTION_SETS if name in (common or ()))


def online_cpus(root: Path = Path("/")) -> Set[int]:
    """Return the numbers of the logical CPUs that are switched on; empty where sysfs is hidden."""
    return parse_cpu_list(_text(root / "sys/devices/system/cpu/online"))


def count_cores(root: Path, cpus: Set[int]) -> int | None:
    """Count physical cores among logical `cpus`: hardware threads of one core count once.

    Returns None where sysfs does not tell (hidden by a container, or an empty set).
    """
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")
        threads = parse_cpu_list(siblings)
        if cpu not in threads:
            return None
        cores.add(threads)
    return len(cores) or None


def parse_cpu_list(text: str) -> frozenset[int]:
    """Read the kernel's list format, such as "0-3,8"; anything else gives an empty set."""
    cpus: set[int] = set()
    for item in text.strip().split(","):
        numbers = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", item)
        if numbers is None:
            return frozenset()
        first, last = numbers.group(1), numbers.group(2) or numbers.group(1)
        cpus.update(range(int(first), int(last) + 1))
    return frozenset(cpus)


def _pairs(cpuinfo: str) -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return [(key.strip(), value.strip()) for key, separator, value in lines if separator]


def _hex(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
