"""What a model may take and holds: a real process's memory, and needs that follow the plan."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.launch import check_vram, launches_of, ram_needed
from runtime.memory_watch import deviations, held_ram, held_vram, memory_needs, memory_now
from scheduler.errors import PlanError
from scheduler.hardware import Gpu, GpuProcess
from scheduler.memory import kv_cache_bytes
from scheduler.planner import make_plan
from scheduler.pressure import MemoryNeed
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB
from tests.support.tiny import TINY_BUNDLE

BUNDLE = open_bundle(TINY_BUNDLE)
SPEC = spec_of_bundle(BUNDLE)
PLAN = make_plan(PlanRequest(SPEC, vram_bytes=(GIB,), gpu_blocks=5, slots=4))
CHILD = """
import mmap, sys
held = b"x" * (64 << 20)
file = open(sys.argv[1], "rb")
pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(pages[start] for start in range(0, len(pages), 4096))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[int]:
    """A process with 64 MiB of its own and 64 MiB of a mapped file."""
    file = tmp_path / "file"
    file.write_bytes(b"y" * (64 * MIB))
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process.pid
    process.communicate()


def test_needs_end_at_the_plan_and_lose_a_cache_for_every_unused_slot() -> None:
    launches = launches_of(PLAN, BUNDLE, frozenset({"mnn:cpu"}), {}, 2)
    (ram,) = memory_needs(PLAN, SPEC, launches, PLAN.slots)
    assert ram.device == "ram"
    assert ram.all_slots_bytes == ram_needed(PLAN, SPEC, launches)
    every = sum(
        kv_cache_bytes(SPEC, blocks, PLAN.context_tokens, 4, 4)
        - kv_cache_bytes(SPEC, blocks, PLAN.context_tokens, 2, 4)
        for blocks in (5, 3)
    )
    assert ram.by_slots[4] - ram.by_slots[2] == every
    assert list(ram.by_slots) == sorted(ram.by_slots)


def test_a_stage_on_a_gpu_is_a_need_of_its_own() -> None:
    working = frozenset({"mnn:cpu", "mnn:cuda"})
    launches = launches_of(PLAN, BUNDLE, working, {"gpu0": "GPU-a"}, 2)
    ram, card = memory_needs(PLAN, SPEC, launches, PLAN.slots)
    assert (ram.device, card.device) == ("ram", "gpu0")
    assert card.all_slots_bytes == PLAN.stages[0].memory.total_bytes
    assert card.by_slots[0] == card.all_slots_bytes - PLAN.stages[0].memory.kv_cache_bytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells file pages apart")
def test_held_memory_is_that_of_the_whole_family(child: int) -> None:
    alone, _ = held_ram([])
    as_worker, swapped = held_ram([child])
    assert as_worker - alone > 60 * MIB  # the pages of its file
    need = MemoryNeed("ram", (1 << 50, 1 << 50))
    found = memory_now([need], [])["ram"]
    assert found.held_bytes is not None
    assert found.held_bytes > 64 * MIB
    assert 0 < found.free_bytes < found.total_bytes
    assert swapped >= 0


def test_nothing_more_is_measured_where_enough_is_free() -> None:
    found = memory_now([MemoryNeed("ram", (1, 1)), MemoryNeed("gpu7", (1, 1))], [])
    assert found["ram"].held_bytes is None
    assert "gpu7" not in found


def test_what_a_driver_hides_is_taken_from_the_plan() -> None:
    need = MemoryNeed("gpu0", (100, 200))
    card = Gpu("gpu0", "A card", GIB, GIB)
    assert held_vram(card, [1], need) == 100
    busy = dataclasses.replace(card, processes=(GpuProcess(1, 150), GpuProcess(2, 9)))
    assert held_vram(busy, [1], need) == 150
    assert held_vram(busy, [3], need) == 100
    hidden = dataclasses.replace(card, processes=(GpuProcess(1, None),))
    assert held_vram(hidden, [1], need) == 100


def test_what_is_held_beyond_the_plan_is_said() -> None:
    needs = [MemoryNeed("ram", (100, 200)), MemoryNeed("gpu0", (1, 2)), MemoryNeed("gpu1", (1, 2))]
    (told,) = deviations(needs, {"ram": 201, "gpu0": 2})
    assert told.startswith("201 B of RAM are held after loading (measured)")
    assert deviations(needs, {}) == []


def test_free_vram_is_compared_before_anything_loads() -> None:
    launches = launches_of(PLAN, BUNDLE, frozenset({"mnn:cpu", "mnn:cuda"}), {"gpu0": "GPU-a"}, 2)
    memory = PLAN.stages[0].memory
    loaded = memory.weights_bytes + memory.lm_head_bytes + memory.runtime_bytes
    assert check_vram(PLAN, launches, {"gpu0": memory.total_bytes}) == []
    assert check_vram(PLAN, launches, {"gpu0": None}) == []
    (warning,) = check_vram(PLAN, launches, {"gpu0": loaded})
    assert warning.startswith("gpu0 needs")
    with pytest.raises(PlanError, match="end what else uses it"):
        check_vram(PLAN, launches, {"gpu0": loaded - 1})
    by_fit = PLAN.model_copy(update={"policy": "fit"})
    with pytest.raises(PlanError, match="are free now"):
        check_vram(by_fit, launches, {"gpu0": loaded})
    on_cpu = launches_of(PLAN, BUNDLE, frozenset({"mnn:cpu"}), {}, 2)
    assert check_vram(PLAN, on_cpu, {"gpu0": 0}) == []
