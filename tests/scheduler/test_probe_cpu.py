"""Processor and RAM: parsers on texts as systems print them, and this machine against psutil."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.probe import probe_host
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.elsewhere import parse_sysctl
from scheduler.probe.linux_cpu import (
    count_cores,
    describe,
    online_cpus,
    parse_cpu_list,
    parse_instruction_sets,
    parse_model_name,
)


def run(code: str) -> str:
    """Run Python code in a child process at the repository root and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux files")

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 143
model name\t: Intel(R) Xeon(R)  Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 avx f16c avx2 avx512f fma avx_vnni avx512_bf16 avx512_vnni amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R)  Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 avx f16c avx2 avx512f fma avx512_vnni amx_int8
"""

ARM = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd aes asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd0c

processor\t: 1
Features\t: fp asimd asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


def test_x86_names_and_instruction_sets_that_every_core_has() -> None:
    assert parse_model_name(X86) == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert parse_instruction_sets(X86) == (
        *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "amx_int8"),
    )


def test_arm_names_and_instruction_sets() -> None:
    assert parse_model_name(ARM) == "Neoverse N1"
    assert parse_instruction_sets(ARM) == ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")


def test_arm_with_big_and_little_cores_names_both() -> None:
    both = ARM + "\nCPU implementer: 0x41\nCPU part: 0xd05\n"
    assert parse_model_name(both) == "Neoverse N1 + Cortex-A55"


def test_an_unknown_arm_part_is_named_by_its_numbers() -> None:
    other = "CPU implementer\t: 0x61\nCPU part\t: 0xd0c\n"
    assert parse_model_name(other) == "Arm CPU (implementer 0x61, part 0xd0c)"


def test_a_board_names_itself_where_cpuinfo_does_not(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Some Board Rev 1.4\0")
    (tmp_path / "proc/cpuinfo").write_text("processor: 0\nisa: rv64imafdc\n")
    assert describe(tmp_path).model_name == "Some Board Rev 1.4"
    assert describe(tmp_path).instruction_sets == ()


def test_nothing_readable_is_unknown(tmp_path: Path) -> None:
    assert describe(tmp_path).model_name is None
    assert online_cpus(tmp_path) == frozenset()
    assert count_cores(tmp_path, frozenset({0})) is None


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8\n", {0, 1, 2, 3, 8}),
        ("0\n", {0}),
        ("", set()),
        ("\n", set()),
        ("3-1", set()),
        ("a-b", set()),
        ("1-", set()),
    ],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@given(cpus=st.sets(st.integers(0, 300)))
def test_cpu_lists_are_read_back(cpus: set[int]) -> None:
    assert parse_cpu_list(",".join(map(str, sorted(cpus)))) == cpus


@given(text=st.text())
def test_damaged_cpuinfo_never_raises(text: str) -> None:
    parse_model_name(text)
    parse_instruction_sets(text)
    parse_sysctl(text)


def topology(root: Path, siblings: dict[int, str], file: str = "core_cpus_list") -> Path:
    base = root / "sys/devices/system/cpu"
    for cpu, text in siblings.items():
        (base / f"cpu{cpu}/topology").mkdir(parents=True)
        (base / f"cpu{cpu}/topology/{file}").write_text(text + "\n")
    (base / "online").write_text(f"0-{len(siblings) - 1}\n")
    return root


@pytest.mark.parametrize("file", ["core_cpus_list", "thread_siblings_list"])
def test_hardware_threads_of_one_core_count_once(tmp_path: Path, file: str) -> None:
    # Four cores of two threads each: 0 and 4, 1 and 5, ...
    root = topology(tmp_path, {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}, file)
    assert count_cores(root, online_cpus(root)) == 4
    assert count_cores(root, frozenset({0, 4})) == 1
    assert count_cores(root, frozenset({0, 1, 2})) == 3
    assert count_cores(root, frozenset()) is None
    assert count_cores(root, frozenset({0, 99})) is None


def test_macos_on_apple_silicon() -> None:
    text = (
        "machdep.cpu.brand_string: Apple M2 Pro\n"
        "hw.optional.AdvSIMD: 1\n"
        "hw.optional.arm.FEAT_DotProd: 1\n"
        "hw.optional.arm.FEAT_I8MM: 1\n"
        "hw.optional.arm.FEAT_SME: 0\n"
    )
    described = parse_sysctl(text)
    assert described.model_name == "Apple M2 Pro"
    assert described.instruction_sets == ("asimd", "asimddp", "i8mm")


def test_macos_on_intel() -> None:
    text = (
        "machdep.cpu.brand_string: Intel(R) Core(TM) i7\n"
        "machdep.cpu.features: FPU SSE4.2 FMA AVX1.0 F16C\n"
        "machdep.cpu.leaf7_features: AVX2 BMI2\n"
    )
    assert parse_sysctl(text).instruction_sets == ("sse4_2", "avx", "avx2", "fma", "f16c")


@linux_only
def test_a_control_group_is_applied_and_said(tmp_path: Path) -> None:
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/\n")
    (proc / "mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("1073741824\n")
    (group / "memory.current").write_text("268435456\n")
    (group / "cpu.max").write_text("50000 100000\n")
    cpu, notes = probe_cpu(tmp_path, "linux")
    assert cpu.total_bytes == 1073741824
    assert cpu.available_bytes <= 805306368
    assert (cpu.usable_cores, cpu.cpu_quota) == (1, 0.5)
    assert any("limits RAM to 1.00 GiB" in note for note in notes)
    assert any("grants 0.5 CPUs" in note for note in notes)
    assert any("model name" in note for note in notes)


def test_an_unknown_system_still_gets_numbers(tmp_path: Path) -> None:
    cpu, _notes = probe_cpu(tmp_path, "sunos5")
    assert cpu.physical_cores >= 1
    assert cpu.usable_cores >= 1
    assert 0 < cpu.available_bytes <= cpu.total_bytes


@linux_only
def test_this_machine_agrees_with_psutil() -> None:
    cpu = probe_host().cpu
    assert cpu.physical_cores == psutil.cpu_count(logical=False)
    assert 1 <= cpu.usable_cores <= cpu.physical_cores
    assert cpu.logical_cpus == len(os.sched_getaffinity(0))
    assert 0 < cpu.available_bytes <= cpu.total_bytes <= psutil.virtual_memory().total
    assert cpu.model_name in Path("/proc/cpuinfo").read_text()


@linux_only
def test_affinity_lowers_the_usable_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this process may already use one CPU only")
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from scheduler.probe import probe_host; host = probe_host();"
        "print(host.cpu.usable_cores, host.cpu.logical_cpus, *host.notes)"
    )
    printed = run(code)
    assert printed.startswith("1 1 ")
    assert f"may run on 1 of {os.cpu_count()} logical CPUs" in printed


def test_probing_needs_neither_numpy_nor_mnn_nor_pydantic() -> None:
    code = (
        "import sys; from scheduler.probe import probe_host; probe_host();"
        "print([name for name in ('numpy', 'MNN', 'pydantic') if name in sys.modules])"
    )
    assert run(code) == "[]"
