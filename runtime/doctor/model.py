"""Findings about a model: its bundle, and whether a plan for it fits this machine now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtime.article.folder import open_model
from runtime.bundle import Bundle, verify_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.doctor.finding import Finding, fail, ok, warn
from runtime.launch import StageLaunch, check_ram, check_vram, launches_of
from scheduler.errors import BundleError, GlmPlanError
from scheduler.memory import hop_bytes
from scheduler.plan import Plan
from scheduler.units import format_size

_AGAIN = "export or copy the bundle again"


def bundle(path: Path, *, deep: bool) -> tuple[Finding, Bundle | None]:
    """Whether a bundle is whole: its manifest, every file and size; with `deep` every checksum."""
    try:
        opened = open_model(path)
        if deep and opened.layout == "glm-plan":
            verify_bundle(opened)
    except BundleError as error:
        return fail("bundle", _clause(error), _AGAIN), None
    manifest = opened.manifest
    count = len({file.path for file in manifest.files()})
    checked = "checksums match" if deep else "sizes match"
    text = f"{manifest.model}: {count} files, {format_size(manifest.size_bytes)}, {checked}"
    return ok("bundle", text), opened


def plan_here(
    plan: Plan,
    opened: Bundle,
    working: frozenset[str],
    cuda_devices: Mapping[str, str],
    threads: int,
    available_bytes: int,
    free_vram: Mapping[str, int | None],
) -> list[Finding]:
    """Whether a plan could be started on this machine now."""
    spec = spec_of_bundle(opened)
    blocks = plan.gpu_blocks + plan.cpu_blocks
    if (plan.model, blocks) != (spec.name, spec.blocks):
        text = f"it is for {plan.model} with {blocks} blocks, the bundle has {spec.name}"
        return [fail("plan", f"{text} with {spec.blocks}", "plan anew for this bundle")]
    try:
        launches = launches_of(plan, opened, working, cuda_devices, threads)
        check_ram(plan, spec, launches, available_bytes)
        warnings = check_vram(plan, launches, free_vram)
    except GlmPlanError as error:
        return [fail("plan", _clause(error), "plan anew: `glm-plan plan --out FILE`")]
    findings = [warn("plan", one.rstrip("."), "plan a smaller --context") for one in warnings]
    return findings or [ok("plan", _placement(plan, launches))]


def shared_bytes(plan: Plan | None, opened: Bundle | None) -> int:
    """Bytes of shared memory that the workers of a plan need; without one, of a single stage."""
    if opened is None:
        return 0
    spec = spec_of_bundle(opened)
    if plan is None:
        return hop_bytes(spec, 1, min(2048, spec.max_context), 1)
    return hop_bytes(spec, len(plan.stages), plan.context_tokens, plan.slots)


def _placement(plan: Plan, launches: list[StageLaunch]) -> str:
    stages = ", ".join(f"{one.device} blocks {one.block_span}" for one in launches)
    return f"it can start here now: {stages}; {plan.slots} slots of {plan.context_tokens} tokens"


def _clause(error: Exception) -> str:
    return str(error).rstrip(".")
