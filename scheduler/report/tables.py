"""Reports as data: one JSON document, and CSV with one line per verdict."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from pydantic import ValidationError

from scheduler.cell import Cell
from scheduler.errors import UserInputError
from scheduler.report.document import REPORT_SCHEMA, Report
from scheduler.report.words import limit_text

CSV_COLUMNS = (
    "model",
    "machine",
    "policy",
    "gpu_precision",
    "cpu_precision",
    "context_tokens",
    "slots",
    "verdict",
    "gpu_blocks",
    "blocks",
    "lm_head_device",
    "vram_needed_bytes",
    "vram_free_bytes",
    "ram_needed_bytes",
    "ram_available_bytes",
    "limit_kind",
    "limit_where",
    "limit_needed",
    "limit_available",
    "limit",
    "tokens_per_second",
    "tokens_per_second_per_slot",
    "ttft_seconds",
    "prompt_tokens",
    "memory_provenance",
    "speed_provenance",
)
"""Amounts of several GPUs are joined by `+`; seconds and rates are empty where nothing runs."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def report_json(report: Report) -> str:
    """Print a report as indented JSON, ASCII only, so that any terminal and pipe takes it."""
    return json.dumps(report.model_dump(mode="json"), indent=1)


def read_report(text: str, name: str) -> Report:
    """Read a report's JSON; `name` is what the sentence calls it.

    Raises UserInputError for anything that is not a sound report of this schema.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UserInputError(f"{name} is not JSON; expected a {REPORT_SCHEMA} document.") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != REPORT_SCHEMA:
        raise UserInputError(f"{name} has schema {str(schema)[:60]!r}; expected {REPORT_SCHEMA!r}.")
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserInputError(f"{name} is not a sound report: {where}: {fault['msg']}.") from None


def report_csv(cells: Iterable[Cell]) -> str:
    """Print verdicts as CSV (RFC 4180, UTF-8, a heading first)."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for cell in cells:
        writer.writerow(_line(cell))
    return lines.getvalue()


def _line(cell: Cell) -> list[object]:
    return [
        _harmless(cell.model),
        _harmless(cell.machine),
        cell.policy,
        cell.gpu_precision,
        cell.cpu_precision,
        cell.context_tokens,
        cell.slots,
        cell.verdict,
        "+".join(map(str, cell.blocks_by_gpu)) or 0,
        cell.blocks,
        cell.lm_head_device,
        "+".join(map(str, cell.vram_needed_bytes)),
        "+".join(map(str, cell.vram_free_bytes)),
        cell.ram_needed_bytes,
        cell.ram_available_bytes,
        cell.limit.kind,
        cell.limit.where,
        cell.limit.needed,
        cell.limit.available,
        limit_text(cell.limit),
        _number(cell.tokens_per_second),
        _number(cell.tokens_per_second_per_slot),
        _number(cell.ttft_seconds),
        cell.prompt_tokens,
        "estimated",
        cell.speed_provenance,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _harmless(text: str) -> str:
    """Keep spreadsheets from running a name that looks like a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
