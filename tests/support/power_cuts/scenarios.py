"""What is cut off: each kind of file that glm-plan writes, over an older one where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.chatglm_checkpoint import Shape, write_checkpoint

_SHAPE = Shape(hidden=32, heads=2, blocks=1, vocab=64)


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes the old state in a folder, `act` the new one, `look` reads it as users do.

    `published` is the name, below the folder, under which the new state appears.
    """

    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    look: Callable[[Path], Any]
    published: str


def _bundle(folder: Path) -> Any:
    """Files of the bundle, all checked; None where there is no bundle."""
    from runtime.bundle import open_bundle

    out = folder / "bundle"
    if not out.exists():
        return None
    open_bundle(out, verify=True)
    return {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()}


def _export(folder: Path, checkpoint: str, precision: Any, **options: Any) -> None:
    from runtime.export.exporter import export_bundle
    from runtime.export.request import ExportRequest

    source, out = folder / checkpoint, folder / "bundle"
    export_bundle(ExportRequest(source, out, (precision,), jobs=1, **options))


def _checkpoints(folder: Path) -> None:
    write_checkpoint(folder / "first", _SHAPE, seed=1)
    write_checkpoint(folder / "second", _SHAPE, seed=2)


def _checkpoints_and_bundle(folder: Path) -> None:
    _checkpoints(folder)
    _export(folder, "first", "fp16")


def _replace(folder: Path) -> None:
    _export(folder, "second", "fp16", force=True, resume=True)


def _extend(folder: Path) -> None:
    from scheduler.errors import UserInputError

    try:
        _export(folder, "first", "int8", resume=True)
    except UserInputError as error:  # cut off after it was published
        if "has all of that already" not in str(error):
            raise


def _fresh(folder: Path) -> None:
    from scheduler.errors import UserInputError

    try:
        _export(folder, "first", "fp16", resume=True)
    except UserInputError as error:
        if "has all of that already" not in str(error):
            raise


def _profile(folder: Path, name: str, seconds: float) -> None:
    from scheduler.host_profile import DeviceConstants, HopConstants, HostProfile
    from scheduler.host_store import save_host

    os.environ["GLM_PLAN_CONFIG_DIR"] = str(folder / "config")
    cpu = DeviceConstants(
        bandwidth_bytes_per_second=2e10,
        flops_per_second=1e11,
        block_overhead_seconds=seconds,
        source="measured for this test",
    )
    hop = HopConstants(latency_seconds=1e-5, bytes_per_second=1e9)
    save_host(HostProfile(name=name, made="2026-01-01", devices={"cpu": cpu}, hop=hop))


def _loaded_profile(folder: Path) -> Any:
    from scheduler.host_store import load_host

    os.environ["GLM_PLAN_CONFIG_DIR"] = str(folder / "config")
    return load_host("here").model_dump_json()


def _parts(folder: Path) -> None:
    """What calibration measures: a block and a head, converted and kept."""
    from runtime.calibrate.parts import calibration_parts

    os.environ["GLM_PLAN_CACHE_DIR"] = str(folder / "cache")
    calibration_parts(64, [("mnn", "int8")])


def _loaded_parts(folder: Path) -> Any:
    """Names of the parts that a calibration would take without making them; all of them whole."""
    shelf = folder / "cache" / "calibration"
    files = shelf.glob("*/width-64/mnn-int8/*")
    found = sorted(one.name for one in files)
    sizes = sorted(one.stat().st_size for one in shelf.glob("*/width-64/mnn-int8/*"))
    return found, sizes


def _plan(folder: Path, vram_gib: int) -> None:
    from scheduler.plan_file import write_plan
    from scheduler.planner import make_plan
    from scheduler.profiles import load_model
    from scheduler.request import PlanRequest

    request = PlanRequest(load_model("chatglm-6b"), vram_bytes=(vram_gib << 30,))
    write_plan(make_plan(request), folder / "plan.json")


def _loaded_plan(folder: Path) -> Any:
    from scheduler.plan_file import read_plan

    return read_plan(folder / "plan.json").model_dump_json(exclude={"created"})


def _report(folder: Path, text: str) -> None:
    from scheduler.report.files import write_report

    write_report(folder / "report" / "report.html", text * 40_000)


def _read_report(folder: Path) -> Any:
    path = folder / "report" / "report.html"
    return path.read_text() if path.exists() else None


SCENARIOS: Mapping[str, Scenario] = {
    "export": Scenario(_checkpoints, _fresh, _bundle, "bundle"),
    "export over a bundle": Scenario(_checkpoints_and_bundle, _replace, _bundle, "bundle"),
    "export into a bundle": Scenario(_checkpoints_and_bundle, _extend, _bundle, "bundle"),
    "calibration parts": Scenario(
        lambda _: None, _parts, _loaded_parts, "cache/calibration/*/mnn-int8"
    ),
    "host profile": Scenario(
        lambda folder: _profile(folder, "here", 1e-4),
        lambda folder: _profile(folder, "here", 2e-4),
        _loaded_profile,
        "config/hosts/here.json",
    ),
    "plan": Scenario(
        lambda folder: _plan(folder, 8), lambda folder: _plan(folder, 11), _loaded_plan, "plan.json"
    ),
    "report": Scenario(
        lambda _: None,
        lambda folder: _report(folder, "a line\n"),
        _read_report,
        "report/report.html",
    ),
}
