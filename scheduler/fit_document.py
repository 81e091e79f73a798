"""The `decision` of a plan made by `fit`: what was minimised, within which budgets."""

from __future__ import annotations

from typing import Any

from scheduler.choose import USABLE_TOKENS_PER_SECOND, Devices, question_of
from scheduler.fit import Fitting
from scheduler.request import PlanRequest
from scheduler.units import format_size

FORMULA = {
    "latency": "least seconds per token within every device's memory",
    "throughput": "fastest slowest stage within every device's memory",
}


def fit_document(request: PlanRequest, devices: Devices, fitting: Fitting) -> dict[str, Any]:
    """Every number that the placement was chosen by; budgets and free memory in bytes."""
    head = next(stage for stage in fitting.stages if stage.lm_head_precision is not None)
    held = {stage.device: len(stage.blocks) for stage in fitting.stages}
    budgets = {room.device: room.budget_bytes for room in question_of(request, devices).rooms}
    limits = ", ".join(
        f"{device} {'unlimited' if budget is None else format_size(budget)}"
        for device, budget in budgets.items()
    )
    return {
        "formula": FORMULA[request.objective],
        "text": f"{FORMULA[request.objective]}: {limits}",
        "set_by": "fit",
        "objective": request.objective,
        "blocks": request.model.blocks,
        "step_seconds": fitting.step_seconds,
        "slowest_stage_seconds": fitting.slowest_stage_seconds,
        "usable_tokens_per_second": USABLE_TOKENS_PER_SECOND,
        "reserve_bytes": request.reserve_bytes or 0,
        "gpu_precision": request.gpu_precision,
        "cpu_precision": request.cpu_precision,
        "lm_head_precision": head.lm_head_precision,
        "lm_head_device": head.device,
        "ram_budget_bytes": budgets["cpu"],
        "gpus": [
            {
                "device": gpu.device,
                "free_bytes": gpu.free_bytes,
                "free_provenance": gpu.provenance,
                "budget_bytes": budgets.get(gpu.device),
                "blocks": held.get(gpu.device, 0),
            }
            for gpu in devices.gpus
        ],
    }
