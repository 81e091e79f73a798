"""Memory bars: what fills each device's memory, item by item, and where its free memory ends."""

from __future__ import annotations

from typing import Any

from scheduler.plan import Plan
from scheduler.report.chart import Canvas, Chart, Spec, spec_of
from scheduler.report.document import PlanOf
from scheduler.report.words import setting_text
from scheduler.units import GIB, format_size

_WIDE = 950
_BAR_HEIGHT = 30
_ITEMS = ("weights", "lm_head", "KV cache", "workspace", "runtime", "other processes")


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
        wide=_WIDE,
        alt=f"Memory, estimated, item by item: {told}.",
        draw=lambda canvas: _draw_bars(canvas, bars, free),
        columns=("device", *_ITEMS, "needed", "available"),
        rows=rows,
    )


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
