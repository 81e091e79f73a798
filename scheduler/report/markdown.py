"""Markdown: a report for wikis, issues and reviews; tables where the page has drawings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from scheduler.errors import UserInputError
from scheduler.plan import Plan
from scheduler.report.document import PlanOf, Report
from scheduler.report.summary import lead_of, title_of
from scheduler.report.view import (
    LARGEST_PAGE,
    ModelView,
    answer_columns,
    answer_row,
    column_text,
    model_views,
)
from scheduler.report.words import (
    MEANINGS,
    VERDICT_MARKS,
    VERDICT_WORDS,
    blocks_text,
    count_text,
    limit_text,
    rate_text,
    seconds_text,
    setting_text,
    sizes_text,
)
from scheduler.units import format_size

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~$&])")
_LINE_ENDS = re.compile(r"[\r\n\x0b\x0c\x85\u2028\u2029]+")


def report_markdown(report: Report) -> str:
    """Make the Markdown; every name is escaped. Raises UserInputError for over 2,000 verdicts."""
    if len(report.cells) > LARGEST_PAGE:
        raise UserInputError(
            f"A table of {len(report.cells):,} verdicts cannot be read; the most is"
            f" {LARGEST_PAGE:,}. Choose --format csv or json, or ask for less."
        )
    parts = [
        f"# {escape(title_of(report))}",
        escape(lead_of(report.cells)),
        f"Made by glm-plan {escape(report.version)} on {escape(report.date)}, policy"
        f" {report.policy}. Memory is estimated; speed is labelled.",
    ]
    for model in model_views(report):
        parts += _model(report, model)
    parts += [
        "## What the verdicts mean",
        table(
            ("verdict", "meaning"),
            [(_verdict(verdict), meaning) for verdict, meaning in MEANINGS.items()],
        ),
        "## Assumptions",
        "\n".join(f"- {escape(sentence)}" for sentence in report.assumptions),
        "## Sources",
        table(
            ("number", "how sure", "source"),
            [(source.what, source.provenance, source.source) for source in report.sources],
        ),
        "## Make it again",
        _code(report.command),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Make any text plain in Markdown: no markup, no HTML, no line of its own."""
    return _SPECIAL.sub(r"\\\1", _LINE_ENDS.sub(" ", text))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in GitHub's form; texts are escaped."""
    lines = [columns, ["---"] * len(columns)]
    head, rule = (f"| {' | '.join(line)} |" for line in lines)
    body = [f"| {' | '.join(map(escape, row))} |" for row in rows]
    return "\n".join([head, rule, *body])


def _model(report: Report, model: ModelView) -> list[str]:
    facts = model.facts
    verdicts = table(
        (
            "GPU",
            "at",
            "verdict",
            "blocks on the GPU",
            "tok/s a slot",
            "first token",
            "VRAM needed",
            "RAM needed",
            "what binds",
        ),
        [
            (
                cell.machine,
                column_text(cell),
                _verdict(cell.verdict),
                blocks_text(cell),
                rate_text(cell.tokens_per_second_per_slot),
                seconds_text(cell.ttft_seconds),
                f"{sizes_text(cell.vram_needed_bytes)} of {sizes_text(cell.vram_free_bytes)}",
                f"{format_size(cell.ram_needed_bytes)} of {format_size(cell.ram_available_bytes)}",
                limit_text(cell.limit),
            )
            for cell in model.cells
        ],
    )
    drawn = [plan for plan in report.plans if plan.setting.model == facts.name]
    return [
        f"## {escape(facts.name)}",
        f"{facts.blocks:,} blocks, {count_text(facts.parameters)} parameters, context up to"
        f" {facts.max_context:,} tokens.",
        verdicts,
        "### Plans",
        *(_plan(plan) for plan in drawn),
        "### What would have to be",
        table(answer_columns(report), [answer_row(report, given) for given in model.answers]),
        *(
            text
            for chart in model.curves
            for text in (f"### {chart.title}", table(("setting", *chart.columns[1:]), chart.rows))
        ),
    ]


def _plan(drawn: PlanOf) -> str:
    plan = drawn.plan
    lines = [f"{setting_text(drawn.setting)}", *_map_lines(plan)]
    for stage in plan.stages:
        memory = stage.memory
        lines.append(
            f"{stage.device:>5}  {format_size(memory.total_bytes)}: weights"
            f" {format_size(memory.weights_bytes)}, lm_head {format_size(memory.lm_head_bytes)},"
            f" KV cache {format_size(memory.kv_cache_bytes)}, workspace"
            f" {format_size(memory.workspace_bytes)}, runtime {format_size(memory.runtime_bytes)}"
        )
    return _code("\n".join(lines))


def _map_lines(plan: Plan) -> list[str]:
    """One character per block: a GPU's number, or a dot for the CPU; then lm_head."""
    marks = {stage.device: stage.device.removeprefix("gpu")[-1:] for stage in plan.stages}
    marks["cpu"] = "."
    blocks = "".join(marks[stage.device] * len(stage.blocks) for stage in plan.stages)
    head = next(stage.device for stage in plan.stages if stage.lm_head)
    return [f"[{blocks}] lm_head on {head}; a digit is a block on that GPU, a dot one on the CPU"]


def _verdict(verdict: str) -> str:
    return next(
        f"{VERDICT_MARKS[name]} {word}" for name, word in VERDICT_WORDS.items() if name == verdict
    )


def _code(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
