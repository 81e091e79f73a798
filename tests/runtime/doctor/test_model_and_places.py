"""Findings about engines, bundles, plans, directories and ports, on real files and sockets."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from runtime.backends.proof import BackendReport, BackendStatus
from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.doctor import engines, model, places
from scheduler.plan import Plan
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB
from tests.support.tiny import TINY_BUNDLE

CPU_ONLY = frozenset({"mnn:cpu"})


@pytest.fixture
def plan() -> Plan:
    spec = spec_of_bundle(open_bundle(TINY_BUNDLE))
    return make_plan(PlanRequest(spec, vram_bytes=(GIB,), gpu_blocks=5))


def statuses(*kinds: tuple[str, str]) -> tuple[BackendStatus, ...]:
    return tuple(BackendStatus(kind, status, "Why.") for kind, status in kinds)  # type: ignore[arg-type]


def test_engines() -> None:
    good = BackendReport("mnn", "3.6.1", statuses(("cpu", "works"), ("vulkan", "missing")))
    assert [(one.status, one.text) for one in engines.engine(good)] == [
        ("ok", "3.6.1: mnn:cpu compute as NumPy does")
    ]
    broken = BackendReport("mnn", "3.6.1", statuses(("cpu", "failed"), ("cuda", "no_device")))
    assert [one.status for one in engines.engine(broken)] == ["fail", "warn"]
    assert engines.engine(BackendReport("mnn", None, ()))[0].status == "fail"
    assert engines.engine(BackendReport("ort", None, ()))[0].status == "ok"


def test_backends_that_a_plan_asks_for(plan: Plan) -> None:
    assert engines.needed_kinds(plan) == []
    (missing,) = engines.planned_backends(plan, CPU_ONLY)
    assert missing.status == "warn"
    assert "gpu0 is planned for mnn:cuda" in missing.text
    assert engines.planned_backends(plan, CPU_ONLY | {"mnn:cuda"})[0].status == "ok"


def test_a_bundle_is_whole_or_says_what_is_wrong(tmp_path: Path) -> None:
    found, opened = model.bundle(TINY_BUNDLE, deep=True)
    assert found.status == "ok"
    assert "checksums match" in found.text
    assert opened is not None
    copy = tmp_path / "bundle"
    shutil.copytree(TINY_BUNDLE, copy)
    victim = next(copy.rglob("*.weight"))
    content = bytearray(victim.read_bytes())
    content[0] ^= 1
    victim.write_bytes(content)
    assert model.bundle(copy, deep=False)[0].status == "ok"
    damaged, opened = model.bundle(copy, deep=True)
    assert damaged.status == "fail"
    assert victim.name in damaged.text
    assert opened is None
    victim.unlink()
    assert model.bundle(copy, deep=False)[0].status == "fail"


def test_a_plan_against_memory_here(plan: Plan) -> None:
    bundle = open_bundle(TINY_BUNDLE)

    def found(free_ram: int, vram: int | None, working: frozenset[str] = CPU_ONLY) -> list[str]:
        findings = model.plan_here(
            plan, bundle, working, {"gpu0": "GPU-a"}, 2, free_ram, {"gpu0": vram}
        )
        return [one.status for one in findings]

    with_gpu = CPU_ONLY | {"mnn:cuda"}
    assert found(8 * GIB, None) == ["ok"]
    assert found(50 * MIB, None) == ["fail"]
    assert found(8 * GIB, 2 * GIB, with_gpu) == ["ok"]
    assert found(8 * GIB, 10 * MIB, with_gpu) == ["fail"]
    other = plan.model_copy(update={"model": "other"})
    assert model.plan_here(other, bundle, CPU_ONLY, {}, 2, 8 * GIB, {})[0].status == "fail"
    assert model.shared_bytes(plan, bundle) > model.shared_bytes(None, bundle) > 0


def test_directories(tmp_path: Path) -> None:
    def found(path: Path) -> str:
        return places.directory("models", path, "GLM_PLAN_DATA_DIR").status

    assert found(tmp_path / "not" / "yet") == "ok"
    assert found(tmp_path) == "ok"
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert found(open_to_all) == "warn"
    (tmp_path / "file").write_text("x")
    assert found(tmp_path / "file") == "fail"
    if os.geteuid() == 0:
        open_to_all.chmod(0o755)
        os.chown(open_to_all, 12345, -1)
        assert found(open_to_all) == "warn"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.disk(tmp_path / "models").check == "disk"
    for free, status in ((100 * MIB, "fail"), (GIB, "warn"), (100 * GIB, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Free(free))
        assert places.disk(tmp_path).status == status


class Free:
    """What `shutil.disk_usage` returns, as far as it is read."""

    def __init__(self, free: int) -> None:
        self.free = free


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert places.port(number).status == "fail"
    assert places.port(number).status == "ok"
