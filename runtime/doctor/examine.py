"""The whole examination: facts are collected here, and the other modules judge them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import psutil

from runtime.backends.ort_proof import prove_ort
from runtime.backends.ort_session import installed_distributions
from runtime.backends.proof import BackendReport, prove_backends
from runtime.bundle import Bundle
from runtime.doctor import engines, installation, machine, model, places
from runtime.doctor.finding import Finding, fail
from runtime.model_store import find_model
from scheduler.errors import GlmPlanError
from scheduler.hardware import Cpu
from scheduler.plan import Plan
from scheduler.plan_file import read_plan
from scheduler.probe.cgroup import read_limits
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.gpus import probe_all_gpus
from scheduler.profile_files import config_dir, data_dir

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (its size is asked for, nothing is written)
_CONNECTIONS = 128  # a server's queue and slots, generously


def examine(
    bundle_dir: Path | None, plan_file: Path | None, port: int | None, *, deep: bool
) -> Iterator[Finding]:
    """Yield what is found, check by check; what a check finds broken is a finding, no exception."""
    cpu, _notes = probe_cpu(Path("/"), sys.platform)
    yield from _installation(deep=deep)
    plan, found = _plan(plan_file)
    yield from found
    opened, found = _bundle(bundle_dir, plan, deep=deep)
    yield from found
    yield from _machine(cpu, model.shared_bytes(plan, opened))
    gpus, _notes = probe_all_gpus(os.environ, sys.platform, Path("/"))
    nvidia = tuple(gpu for gpu in gpus if gpu.vendor == "NVIDIA")
    mnn = prove_backends(nvidia)
    ort = _prove_ort(plan)
    yield from engines.engine(mnn)
    yield from engines.engine(ort)
    if plan is not None:
        working = mnn.working | ort.working
        yield from engines.planned_backends(plan, working)
        if opened is not None:
            yield from model.plan_here(
                plan,
                opened,
                working,
                {gpu.name: gpu.uuid for gpu in nvidia if gpu.uuid},
                cpu.usable_cores,
                cpu.available_bytes,
                {gpu.name: gpu.free_bytes for gpu in gpus},
            )
    yield from _places(port)


def _installation(*, deep: bool) -> Iterator[Finding]:
    yield installation.python(sys.version_info[:3], 64 if sys.maxsize > 1 << 32 else 32)
    installed = {one.name.replace("_", "-").lower(): one.version for one in distributions()}
    try:
        lines = requires("glm-plan") or []
    except PackageNotFoundError:
        lines = []
    wanted = installation.read_requirements(lines, sys.version_info.minor)
    yield from installation.packages(wanted, installed)
    yield from installation.extras(wanted, installed)
    runtimes = installed_distributions()
    yield installation.onnx_runtimes(runtimes)
    if deep:
        always = [one.name for one in wanted if one.extra is None]
        yield installation.altered([*always, *runtimes])
    origins = (find_spec(name) for name in installation.OWN_PACKAGES)
    folders = [
        str(Path(place).parent)
        for one in origins
        if one is not None
        for place in one.submodule_search_locations or ()
    ]
    yield installation.own_names(packages_distributions(), folders)


def _plan(file: Path | None) -> tuple[Plan | None, list[Finding]]:
    if file is None:
        return None, []
    try:
        return read_plan(file), []
    except GlmPlanError as error:
        text = str(error).rstrip(".")
        return None, [fail("plan", text, "make it anew with `glm-plan plan --out FILE`")]


def _bundle(
    given: Path | None, plan: Plan | None, *, deep: bool
) -> tuple[Bundle | None, list[Finding]]:
    """The bundle that was named, the plan's, or the one that ships."""
    name = plan.model if plan else "tiny-glm"
    path = given
    if path is None:
        try:
            path = find_model(name).bundle
        except GlmPlanError:
            path = None
    if path is None:
        text = f"{name} has no bundle here"
        return None, [fail("bundle", text, f"glm-plan export {name}, or name it with --bundle")]
    found, opened = model.bundle(path, deep=deep)
    return opened, [found]


def _machine(cpu: Cpu, shared_bytes: int) -> Iterator[Finding]:
    on_linux = sys.platform.startswith("linux")
    yield machine.cores(cpu)
    yield machine.memory(cpu)
    swap = psutil.swap_memory()
    yield machine.swap(swap.total, swap.used)
    if on_linux:
        yield machine.control_group(read_limits())
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None
    yield machine.shared_memory(free, shared_bytes)
    yield machine.open_files(_most_files(), _CONNECTIONS)
    written = Path(__file__).stat().st_mtime
    yield machine.clock(time.time(), written, time.get_clock_info("perf_counter").resolution)


def _most_files() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _prove_ort(plan: Plan | None) -> BackendReport:
    """Only what is installed or planned is tried: each proof takes seconds."""
    kinds = set(engines.needed_kinds(plan))
    if installed_distributions():
        kinds.add("cpu")
    return prove_ort(sorted(kinds)) if kinds else BackendReport("ort", None, ())


def _places(port: int | None) -> Iterator[Finding]:
    try:
        folders = [
            ("configuration", config_dir(), "GLM_PLAN_CONFIG_DIR"),
            ("models", data_dir(), "GLM_PLAN_DATA_DIR"),
        ]
    except GlmPlanError as error:
        yield fail("configuration", str(error).rstrip("."), "give this user a home directory")
        return
    for check, path, variable in folders:
        yield places.directory(check, path, variable)
    yield places.disk(folders[1][1])
    if port is not None:
        yield places.port(port)
