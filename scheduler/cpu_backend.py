"""Which engine runs the CPU: MNN, unless ONNX Runtime was measured here and is faster.

`glm-plan calibrate` measures both. Where a bundle has files for both and the user names none, the
planner takes the one that decodes faster at the plan's precision and context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scheduler.cost import Speeds, decode_seconds
from scheduler.model import ModelSpec
from scheduler.plan import Plan, Stage
from scheduler.request import PlanRequest

DEFAULT_CPU_BACKEND = "mnn:cpu"
_OTHER = "ort:cpu"


def with_cpu_backends(request: PlanRequest, speeds: Speeds) -> tuple[PlanRequest, ...]:
    """The request for each CPU backend that may be chosen, the default one first.

    That is the request alone where the user names a backend, where the bundle lacks files for
    another at this precision, and where no other was measured.
    """
    open_ = request.cpu_backend is None and request.cpu_precision in request.ort_precisions
    if not open_ or _OTHER not in speeds.backends:
        return (request,)
    return request, replace(request, cpu_backend=_OTHER)


def backend_set_by(request: PlanRequest, settled: PlanRequest) -> str:
    """Who decided what runs the CPU: ``hand``, ``calibration`` or ``default``."""
    if request.cpu_backend is not None:
        return "hand"
    return "default" if settled.cpu_backend is None else "calibration"


def backend_of_cpu(plan: Plan) -> str | None:
    """What runs the CPU's stage; None where there is none."""
    return next((stage.backend for stage in plan.stages if stage.device == "cpu"), None)


def note_on_choice(
    request: PlanRequest, settled: PlanRequest, stages: Sequence[Stage], speeds: Speeds
) -> Iterator[str]:
    """What must be said where the planner left the default."""
    if backend_set_by(request, settled) != "calibration":
        return
    if all(stage.device != "cpu" for stage in stages):
        return
    times = _step_times(
        stages, settled.model, speeds, settled.context_tokens, settled.slots, settled.cpu_backend
    )
    yield f"Chosen: {_compared(times)}; --cpu-backend names another."


def on_cpu_backend(plan: Plan, spec: ModelSpec, speeds: Speeds) -> Iterator[str]:
    """Why the CPU is run by what runs it, for `--explain`."""
    name = backend_of_cpu(plan)
    if name is None:
        return
    if not speeds.backends:
        told = f"cpu is run by {name}"
        if plan.decision.get("cpu_backend_set_by") == "hand":
            yield f"{told}, named with --cpu-backend."
        elif name == DEFAULT_CPU_BACKEND:
            yield f"{told}, the default: {_OTHER} has not been measured on this machine."
        return
    times = _step_times(plan.stages, spec, speeds, plan.context_tokens, plan.slots, name)
    reasons = {
        "hand": "named with --cpu-backend",
        "calibration": "the faster one",
        "default": "the faster one"
        if times[name] <= min(times.values())
        else f"without files for {_OTHER} at this precision, or without the RAM that it needs",
    }
    reason = reasons[plan.decision.get("cpu_backend_set_by", "default")]
    yield f"cpu is run by {_compared(times)}: {reason}."


def _step_times(
    stages: Sequence[Stage],
    spec: ModelSpec,
    speeds: Speeds,
    context: int,
    slots: int,
    chosen: str | None,
) -> dict[str, float]:
    """Seconds of a step by CPU backend, the chosen one first."""
    names = dict.fromkeys([chosen or DEFAULT_CPU_BACKEND, DEFAULT_CPU_BACKEND, *speeds.backends])
    found = {}
    for name in names:
        placed = [
            stage.model_copy(update={"backend": name}) if stage.device == "cpu" else stage
            for stage in stages
        ]
        found[name] = decode_seconds(placed, spec, speeds, context, slots).total_seconds
    return found


def _compared(times: dict[str, float]) -> str:
    (name, seconds), *others = times.items()
    told = ", ".join(f"{1000 * other:.3g} ms with {of}" for of, other in others)
    return f"{name} at {1000 * seconds:.3g} ms a token, against {told} (calibrated)"
