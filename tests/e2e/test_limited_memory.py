"""Less memory than a plan needs, by a limit: refused with the amounts before anything loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.probe.cpu import probe_cpu
from scheduler.units import MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits address space")

# What the command imports is in memory before the limit is set, as it depends on the machine.
LIMITED = """
import resource, sys
import psutil
import runtime.cli.run, runtime.cli.serve, runtime.cli.session, runtime.service.server
import scheduler.planner, scheduler.planning
from runtime.cli.main import main
most = psutil.Process().memory_info().vms + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
main(sys.argv[2:])
"""


def limited(left_bytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(left_bytes), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("words", [("run", "1+1=?"), ("serve", "--port", "0"), ("chat",)])
def test_a_plan_beyond_the_limit_is_refused_with_the_amounts(words: tuple[str, ...]) -> None:
    command = limited(60 * MIB, *words, "--slots", "4", "--context", "2048")
    assert command.returncode == 2, command.stderr
    assert command.stderr.count("\n") == 1
    assert "MiB of RAM" in command.stderr
    assert "are available" in command.stderr
    assert "Traceback" not in command.stderr


def test_the_limit_is_what_is_available_and_said() -> None:
    code = (
        "import resource, sys; from pathlib import Path; import psutil;"
        "from scheduler.probe.cpu import probe_cpu;"
        "most = psutil.Process().memory_info().vms + (300 << 20);"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most));"
        "cpu, notes = probe_cpu(Path('/'), sys.platform);"
        "print(cpu.available_bytes >> 20, *notes)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    available, _, notes = child.stdout.partition(" ")
    assert 200 < int(available) <= 300
    assert "ulimit -v" in notes


def test_without_a_limit_nothing_is_said() -> None:
    assert not any("ulimit" in note for note in probe_cpu(Path("/"), sys.platform)[1])


def test_a_control_group_that_is_too_small_refuses_the_plan(tmp_path: Path) -> None:
    """The tree of a container of 64 MiB, read in the place of this machine's."""
    from runtime.bundle import open_bundle
    from runtime.bundle_spec import spec_of_bundle
    from runtime.launch import check_ram, launches_of
    from scheduler.errors import PlanError
    from scheduler.planner import make_plan
    from scheduler.request import PlanRequest
    from tests.support.tiny import TINY_BUNDLE

    files = {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        "sys/fs/cgroup/memory.max": str(64 * MIB),
        "sys/fs/cgroup/memory.current": str(16 * MIB),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    cpu, notes = probe_cpu(tmp_path, "linux")
    assert cpu.available_bytes == 48 * MIB
    assert any("limits RAM to 64.0 MiB" in note for note in notes)
    bundle = open_bundle(TINY_BUNDLE)
    spec = spec_of_bundle(bundle)
    plan = make_plan(PlanRequest(spec, vram_bytes=()))
    launches = launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)
    with pytest.raises(PlanError, match=r"needs .* MiB of RAM and 48.0 MiB are available"):
        check_ram(plan, spec, launches, cpu.available_bytes)
