"""The results of a bench as tables and as a chart."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from runtime.bench.document import Bench, Case, Figure
from scheduler.errors import UserInputError
from scheduler.units import format_size
from scheduler.whole_file import write_whole

_COLUMNS = (
    "prompt",
    "output",
    "requests",
    "first token",
    "prefill tok/s",
    "decode tok/s",
    "step ms",
    "stages ms",
    "lm_head",
    "hop",
    "sampler",
    "GB/s",
)


def results_table(result: Bench) -> Table:
    """A row per case: medians, and the spread of decode speed over the runs."""
    table = Table(title=f"{result.model}, {result.slots} slots (measured)", title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for case in result.cases:
        share = case.read_gbps.median / result.ram_gbps.median
        table.add_row(
            str(case.prompt_tokens),
            str(case.output_tokens),
            str(case.requests),
            f"{case.time_to_first_token_seconds.median:.3g} s",
            f"{case.prefill_tokens_per_second.median:.3g}",
            _with_spread(case.decode_tokens_per_second),
            f"{case.step_ms.median:.4g}",
            " + ".join(f"{stage.decode_ms.median:.4g}" for stage in case.stages),
            f"{case.lm_head_ms.median:.3g}",
            f"{case.hop_ms.median:.3g}",
            f"{case.sampler_ms.median:.2g}",
            f"{case.read_gbps.median:.3g} ({share:.0%})",
        )
    memory = ", ".join(f"{name}: {format_size(size)}" for name, size in result.rss_bytes.items())
    table.caption = (
        f"{result.processor}, {result.threads} threads; memory reads {result.ram_gbps.median:.3g}"
        f" GB/s here. GB/s: bytes of weights and cache (estimated) over the step. Loaded in"
        f" {result.load_seconds:.1f} s. Resident: {memory}"
    )
    table.caption_justify = "left"
    return table


def comparison_table(result: Bench, before: Bench) -> Table:
    """How many times as fast as before each case is.

    Raises UserInputError when no case is in both.
    """
    known = {case.key: case for case in before.cases}
    shared = [(case, known[case.key]) for case in result.cases if case.key in known]
    if not shared:
        raise UserInputError("the runs have no case in common; use the same --prompts, --outputs.")
    table = Table(title=f"Against {before.model} of {before.made}", title_justify="left")
    for name in ("prompt", "output", "requests", "first token", "prefill", "decode"):
        table.add_column(name, justify="right")
    for now, then in shared:
        table.add_row(
            *map(str, now.key),
            _times(then.time_to_first_token_seconds, now.time_to_first_token_seconds),
            _times(now.prefill_tokens_per_second, then.prefill_tokens_per_second),
            _times(now.decode_tokens_per_second, then.decode_tokens_per_second),
        )
    table.caption = "times as fast as before, medians"
    table.caption_justify = "left"
    return table


def write_chart(result: Bench, path: Path) -> None:
    """Draw decode speed by prompt length, a line per number of requests, as SVG.

    Raises UserInputError without the report extra, or where the file cannot be written.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise UserInputError("--chart needs vl-convert; pip install 'glm-plan[report]'.") from error
    figure = {
        "width": 420,
        "height": 260,
        "title": f"{result.model}: decode speed (measured)",
        "data": {"values": [_point(case) for case in result.cases]},
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "prompt", "type": "quantitative", "title": "tokens of the prompt"},
            "y": {"field": "speed", "type": "quantitative", "title": "tokens per second, all"},
            "color": {"field": "requests", "type": "nominal", "title": "requests at once"},
        },
    }
    try:
        write_whole(path, vl_convert.vegalite_to_svg(figure))
    except OSError as error:
        raise UserInputError(f"{path} cannot be written ({error.strerror or error}).") from error


def _point(case: Case) -> dict[str, object]:
    return {
        "prompt": case.prompt_tokens,
        "speed": case.decode_tokens_per_second.median,
        "requests": str(case.requests),
    }


def _with_spread(figure: Figure) -> str:
    return f"{figure.median:.3g} ±{figure.spread / 2:.0%}"


def _times(faster: Figure, slower: Figure) -> str:
    return f"{faster.median / slower.median:.2f}x" if slower.median else "-"
