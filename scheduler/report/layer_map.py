"""Layer map: which block lives where, one cell per part in the order of execution."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from scheduler.plan import Plan, Stage
from scheduler.report.chart import Canvas, Chart, Spec, spec_of
from scheduler.report.document import PlanOf
from scheduler.report.words import setting_text

_WIDE = 1000
_CELL_HEIGHT = 34


def layer_map(slug: str, drawn: PlanOf, names: dict[str, str]) -> Chart:
    """A strip with one cell per part, in the order that hidden states pass through them.

    `names` says what gpu0, gpu1, ... and the cpu are.
    """
    plan = drawn.plan
    cells = _cells(plan)
    runs = _runs(plan)
    told = "; ".join(run["text"] for run in runs)
    return Chart(
        slug=f"layers-{slug}",
        title="Layers",
        headline=f"Layers of {plan.model}, {setting_text(drawn.setting)}",
        subtitle="one cell per block, and lm_head",
        wide=_WIDE,
        alt=f"Layer map of {plan.model}: {told}.",
        draw=lambda canvas: _draw_map(canvas, plan, names, cells, runs),
        columns=("device", "backend", "blocks", "count", "precision", "lm_head"),
        rows=[
            (
                stage.device,
                stage.backend,
                _span(stage),
                str(len(stage.blocks)),
                stage.precision,
                stage.lm_head_precision or "–",
            )
            for stage in plan.stages
        ],
    )


def _cells(plan: Plan) -> list[dict[str, Any]]:
    cells = []
    for stage in plan.stages:
        for block in stage.blocks:
            text = f"block {block}: {stage.device}, {stage.precision}, {stage.backend}"
            cells.append({"at": block, "device": stage.device, "text": text})
    head = next(stage for stage in plan.stages if stage.lm_head)
    text = f"lm_head: {head.device}, {head.lm_head_precision}, {head.backend}"
    blocks = plan.gpu_blocks + plan.cpu_blocks
    return [*cells, {"at": blocks + 0.5, "device": head.device, "text": text}]


def _runs(plan: Plan) -> list[dict[str, Any]]:
    runs = []
    for stage in plan.stages:
        if stage.blocks:
            first, last = stage.blocks[0], stage.blocks[-1]
            text = f"{stage.device}: {_count(stage)}, {_span(stage)}"
            runs.append({"from": first, "to": last + 1, "device": stage.device, "text": text})
    head = next(stage for stage in plan.stages if stage.lm_head)
    end = plan.gpu_blocks + plan.cpu_blocks
    text = f"lm_head: {head.device}"
    return [*runs, {"from": end + 0.5, "to": end + 1.5, "device": head.device, "text": text}]


def _count(stage: Stage) -> str:
    count = len(stage.blocks)
    if not count:
        return "lm_head only"
    return f"{count} {'block' if count == 1 else 'blocks'}"


def _span(stage: Stage) -> str:
    if not stage.blocks:
        return "no blocks"
    first, last = stage.blocks[0], stage.blocks[-1]
    return str(first) if first == last else f"{first}–{last}"


def _draw_map(
    canvas: Canvas,
    plan: Plan,
    names: dict[str, str],
    cells: list[dict[str, Any]],
    runs: list[dict[str, Any]],
) -> Spec:
    palette = canvas.palette
    blocks = plan.gpu_blocks + plan.cpu_blocks
    labels = {stage.device: f"{names[stage.device]}, {_count(stage)}" for stage in plan.stages}
    gap = 0.06 if blocks <= 64 else 0.0
    values = [
        {
            **cell,
            "from": cell["at"] + gap,
            "to": cell["at"] + 1 - gap,
            "device": labels[cell["device"]],
        }
        for cell in cells
    ]
    x = {
        "type": "quantitative",
        "scale": {"domain": [0, blocks + 1.5], "nice": False, "zero": True},
        "axis": None,
    }
    numbers = [
        {"at": block + 0.5, "text": str(block)}
        for block in sorted({run["from"] for run in runs[:-1]} | {blocks - 1})
    ]
    marks = [*numbers, {"at": blocks + 1.0, "text": "head"}]
    return spec_of(
        canvas,
        {
            "width": canvas.width,
            "height": _CELL_HEIGHT,
            "layer": [
                {
                    "data": {"values": values},
                    "mark": {"type": "rect", "cornerRadius": 2 if gap else 0},
                    "encoding": {
                        "x": {"field": "from", **x},
                        "x2": {"field": "to"},
                        "color": _device_colours(canvas, plan, labels),
                        "description": {"field": "text"},
                    },
                },
                {
                    "data": {"values": _thinned(marks, canvas, blocks)},
                    "mark": {
                        "type": "text",
                        "baseline": "top",
                        "color": palette.muted,
                        "fontSize": 11,
                        "aria": False,
                    },
                    "encoding": {
                        "x": {"field": "at", **x},
                        "y": {"value": _CELL_HEIGHT + 7},
                        "text": {"field": "text"},
                    },
                },
            ],
        },
    )


def _thinned(names: list[dict[str, Any]], canvas: Canvas, blocks: int) -> list[dict[str, Any]]:
    """Leave out numbers that would touch their neighbour to the right."""
    per_block = canvas.width / (blocks + 1.5)
    kept = [
        name
        for name, following in pairwise(names)
        if (following["at"] - name["at"]) * per_block > 26
    ]
    return [*kept, names[-1]]


def _device_colours(canvas: Canvas, plan: Plan, labels: dict[str, str]) -> Spec:
    devices = [stage.device for stage in plan.stages]
    return {
        "field": "device",
        "type": "nominal",
        "scale": {
            "domain": [labels[device] for device in devices],
            "range": [canvas.palette.device(device) for device in devices],
        },
        "legend": {"symbolType": "square", "columns": 1 if canvas.narrow else 3, "offset": 6},
    }
