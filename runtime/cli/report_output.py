"""Where a report goes: which formats into which files, or one to stdout, and pictures beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.errors import UserInputError
from scheduler.wording import shorten

if TYPE_CHECKING:
    from scheduler.report.document import Report

FORMATS = ("html", "md", "csv", "json")

_STDOUT = Path("-")


def output_targets(formats: str | None, out: Path | None) -> dict[str, Path]:
    """Which formats go where; a single one may go to stdout."""
    kinds = [word.strip().lower() for word in formats.split(",")] if formats is not None else []
    for kind in kinds:
        if kind not in FORMATS:
            raise UserInputError(
                f"--format is {shorten(formats or '')}; expected some of {', '.join(FORMATS)}, with"
                " commas between them."
            )
    kinds = list(dict.fromkeys(kinds))
    if out is None:
        if len(kinds) > 1:
            raise UserInputError(
                f"--format names {len(kinds)} formats; name a directory for them with --out."
            )
        return dict.fromkeys(kinds, _STDOUT)
    ending = out.suffix.lower().removeprefix(".")
    if ending and not out.is_dir():
        if ending not in FORMATS:
            raise UserInputError(
                f"--out {shorten(str(out))} ends in .{ending}; expected .html, .md, .csv, .json, or"
                " a directory."
            )
        if kinds not in ([], [ending]):
            raise UserInputError(
                f"--out {shorten(str(out))} is a .{ending} file and --format says"
                f" {shorten(formats or '')}; name a directory, or leave --format out."
            )
        return {ending: out}
    return {kind: out / f"report.{kind}" for kind in kinds or FORMATS}


def output_words(out: Path | None, formats: str | None, png: bool) -> list[str]:
    """The flags about output, spelled again."""
    words = [] if out is None else ["--out", str(out)]
    words += [] if formats is None else ["--format", formats]
    return [*words, "--png"] if png else words


def report_text(report: Report, kind: str) -> str:
    if kind == "html":
        from scheduler.report.page import report_html

        return report_html(report)
    if kind == "md":
        from scheduler.report.markdown import report_markdown

        return report_markdown(report)
    from scheduler.report.tables import report_csv, report_json

    return report_csv(report.cells) if kind == "csv" else f"{report_json(report)}\n"


def deliver(texts: dict[str, str], targets: dict[str, Path]) -> None:
    """Write every format to its place, or the only one to stdout."""
    from scheduler.report.files import write_report

    for kind, text in texts.items():
        if targets[kind] == _STDOUT:
            click.echo(text, nl=False)
        else:
            write_report(targets[kind], text)
            click.echo(f"Report written to {targets[kind]}.")


def write_pictures(report: Report, out: Path) -> None:
    from scheduler.report.files import write_report
    from scheduler.report.render import png
    from scheduler.report.view import model_views

    folder = out.parent if out.suffix and not out.is_dir() else out
    charts = [chart for model in model_views(report) for chart in model.charts]
    for chart in charts:
        write_report(folder / f"report-{chart.slug}.png", png(chart))
    click.echo(f"{len(charts)} pictures written to {folder}{os.sep}report-*.png.")
