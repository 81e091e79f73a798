"""How far a bundle is from its checkpoint, as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from runtime.export.check import CheckReport

_COLUMNS = {
    "query_key_value": "qkv",
    "dense": "dense",
    "up": "up",
    "gate_up": "gate/up",
    "down": "down",
    "keys": "keys",
    "values": "values",
    "y": "output",
}


def check_tables(report: CheckReport) -> list[Table]:
    """A table per encoding: measured relative errors of every part, and how they add up.

    The output of lm_head are its logits. ``drift`` is the error when MNN ran all parts so far.
    """
    return [
        _table(report, encoding) for encoding in dict.fromkeys(one.encoding for one in report.parts)
    ]


def _table(report: CheckReport, encoding: str) -> Table:
    table = Table(
        title=f"{encoding}: measured relative error against the checkpoint",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.add_column("part", no_wrap=True)
    checks = [check for check in report.parts if check.encoding == encoding]
    columns = [name for name in _COLUMNS if any(name in one.errors for one in checks)]
    for heading in (*(_COLUMNS[name] for name in columns), "drift"):
        table.add_column(heading, justify="right", no_wrap=True)
    for check in checks:
        errors = {"y": check.errors.get("logits")} | check.errors
        table.add_row(
            check.part, *(_cell(errors.get(name)) for name in columns), _cell(check.drift)
        )
    if encoding in report.same_top_token:
        share = report.same_top_token[encoding]
        table.caption = f"same most likely token at {share:.0%} of {report.tokens} positions"
        if "int" in encoding:
            table.caption += "\n(activations are rounded to int8 here as well)"
    return table


def _cell(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
