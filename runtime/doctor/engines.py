"""Findings about engines: which backends were proved, and whether a plan's are among them."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.backends.proof import BackendReport
from runtime.doctor.finding import Finding, fail, ok, warn
from scheduler.plan import Plan


def engine(report: BackendReport) -> list[Finding]:
    """What of an engine works, and what of it is here but does not.

    A backend that this build does not contain is no fault.
    """
    name = {"mnn": "MNN", "ort": "ONNX Runtime"}.get(report.engine, report.engine)
    working = sorted(report.working)
    findings = []
    if report.version is None and report.engine == "mnn":
        return [fail(name, "it cannot be imported", "pip install --force-reinstall MNN")]
    if working:
        findings.append(ok(name, f"{report.version}: {', '.join(working)} compute as NumPy does"))
    elif report.version is None:
        findings.append(ok(name, "not installed; MNN runs what it can"))
    for backend in report.backends:
        found = f"{report.engine}:{backend.kind}"
        if found == "mnn:cpu" and backend.status != "works":
            findings.append(fail(name, backend.reason, "pip install --force-reinstall MNN"))
        elif backend.status in ("failed", "no_device"):
            findings.append(
                warn(name, f"{found}: {backend.reason}", f"plan without --gpu-backend {found}")
            )
    return findings


def planned_backends(plan: Plan, working: frozenset[str]) -> list[Finding]:
    """Whether every stage of a plan runs where it was planned."""
    findings = [
        warn(
            "plan",
            f"{stage.device} is planned for {stage.backend}, which does not work here: its blocks"
            " will run on the CPU",
            "install that backend (docs/backends.md), or plan for what `glm-plan devices` shows",
        )
        for stage in plan.stages
        if stage.backend not in working
    ]
    return findings or [ok("plan", "every stage has its backend")]


def needed_kinds(plan: Plan | None) -> Sequence[str]:
    """The kinds of ONNX Runtime that a plan asks for."""
    stages = plan.stages if plan else []
    return sorted({one.backend[4:] for one in stages if one.backend.startswith("ort:")})
