"""Drawings of one plan: which block lives where, and what fills each device's memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from scheduler.plan import Plan, Stage
from scheduler.report.chart import Canvas, Chart, Spec, spec_of
from scheduler.report.document import PlanOf
from scheduler.report.words import setting_text
from scheduler.units import GIB, format_size

_WIDE = 1000
_CELL_HEIGHT = 34
_BAR_HEIGHT = 30
_ITEMS = ("weights", "lm_head", "KV cache", "workspace", "runtime", "other processes")


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


def memory_bars(slug: str, drawn: PlanOf) -> Chart:
    """A bar per device, item by item, with a line where its free memory ends."""
    bars = _bars(drawn.plan)
    free = _free(drawn.plan)
    rows = []
    for device, items in bars.items():
        needed = sum(items.values())
        available = "unknown" if free[device] is None else format_size(free[device] or 0)
        sizes = [format_size(items[item]) if items[item] else "–" for item in _ITEMS]
        rows.append((device, *sizes, format_size(needed), available))
    told = "; ".join(f"{row[0]} needs {row[-2]} of {row[-1]}" for row in rows)
    return Chart(
        slug=f"memory-{slug}",
        title="Memory",
        headline=f"Memory of {drawn.plan.model}, {setting_text(drawn.setting)}",
        subtitle="GiB, estimated; the upright line is what is free",
        wide=_WIDE - 50,
        alt=f"Memory, estimated, item by item: {told}.",
        draw=lambda canvas: _draw_bars(canvas, bars, free),
        columns=("device", *_ITEMS, "needed", "available"),
        rows=rows,
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


def _bars(plan: Plan) -> dict[str, dict[str, int]]:
    """Items of every GPU, and of the RAM with all processes in it."""
    bars: dict[str, dict[str, int]] = {}
    beside = plan.ram.driver_bytes + sum(stage.host_bytes for stage in plan.stages)
    on_cpu = dict.fromkeys(_ITEMS, 0) | {"other processes": beside}
    for stage in plan.stages:
        memory = stage.memory
        items = {
            "weights": memory.weights_bytes,
            "lm_head": memory.lm_head_bytes,
            "KV cache": memory.kv_cache_bytes,
            "workspace": memory.workspace_bytes,
            "runtime": memory.runtime_bytes,
            "other processes": 0,
        }
        if stage.device == "cpu":
            on_cpu |= items | {"other processes": beside}
        else:
            bars[stage.device] = items
    return {**bars, "RAM": on_cpu}


def _free(plan: Plan) -> dict[str, int | None]:
    free = {stage.device: stage.free_bytes for stage in plan.stages if stage.device != "cpu"}
    return {**free, "RAM": plan.ram.available_bytes}


def _draw_bars(
    canvas: Canvas, bars: dict[str, dict[str, int]], free: dict[str, int | None]
) -> Spec:
    palette = canvas.palette
    colours = (
        palette.blue,
        palette.sky,
        palette.green,
        palette.orange,
        palette.vermillion,
        palette.purple,
    )
    values: list[dict[str, Any]] = []
    for device, items in bars.items():
        start = 0.0
        for item in _ITEMS:
            if items[item]:
                end = start + items[item] / GIB
                text = f"{device}, {item}: {format_size(items[item])}"
                values.append(
                    {"device": device, "item": item, "from": start, "to": end, "text": text}
                )
                start = end
    limits: list[dict[str, Any]] = [
        {"device": device, "at": size / GIB, "text": f"{size / GIB:.2f}"}
        for device, size in free.items()
        if size is not None
    ]
    used = [item for item in _ITEMS if any(items[item] for items in bars.values())]
    y = {
        "field": "device",
        "type": "nominal",
        "sort": list(bars),
        "title": None,
        "axis": {"labelColor": palette.ink},
    }
    largest = max(v["to"] for v in values)
    reach = max([largest, *(limit["at"] for limit in limits if limit["at"] <= 4 * largest)])
    shown = [limit for limit in limits if limit["at"] <= reach]
    legend_columns = 3 if canvas.narrow else 6
    return spec_of(
        canvas,
        {
            "width": canvas.width,
            "height": {"step": _BAR_HEIGHT + 14},
            "encoding": {"y": y},
            "layer": [
                {
                    "data": {"values": values},
                    "mark": {
                        "type": "bar",
                        "height": _BAR_HEIGHT - 4,
                        "stroke": palette.paper or "var(--card)",
                        "strokeWidth": 1,
                    },
                    "encoding": {
                        "x": {
                            "field": "from",
                            "type": "quantitative",
                            "title": None,
                            "scale": {"domain": [0, reach * 1.02], "nice": False},
                            "axis": {"tickCount": 6},
                        },
                        "x2": {"field": "to"},
                        "color": {
                            "field": "item",
                            "type": "nominal",
                            "scale": {
                                "domain": used,
                                "range": [colours[_ITEMS.index(item)] for item in used],
                            },
                            "legend": {"symbolType": "square", "columns": legend_columns},
                        },
                        "description": {"field": "text"},
                    },
                },
                {
                    "data": {"values": shown},
                    "mark": {
                        "type": "tick",
                        "thickness": 3,
                        "size": _BAR_HEIGHT + 8,
                        "color": palette.ink,
                        "opacity": 1,
                        "aria": False,
                    },
                    "encoding": {"x": {"field": "at", "type": "quantitative"}},
                },
            ],
        },
    )
