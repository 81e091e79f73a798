"""`glm-plan report`: what fits where and how fast, as a page, Markdown, CSV, JSON or slides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.report_study import Asked
from scheduler.errors import UserInputError
from scheduler.wording import shorten

if TYPE_CHECKING:
    from scheduler.capacity import Cell
    from scheduler.report.build import Study
    from scheduler.report.document import Report

FORMATS = ("html", "md", "csv", "json")

_STDOUT = Path("-")
_LIMITS_SHOWN = 8


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    default=("chatglm-6b",),
    show_default=True,
    help="Repeat it to compare models.",
)
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="NAME",
    help="A graphics card, here or not; `2x NAME` or `NAME + NAME` is one machine with two. Repeat"
    " it to compare.  [default: this machine's, or common ones of 4 to 24 GiB]",
)
@click.option(
    "--vram",
    multiple=True,
    metavar="SIZE",
    help="Free memory of each --gpu, in order; without --gpu, cards of which only this is known.",
)
@click.option("--cpu", metavar="NAME", help="A processor instead of this machine's.")
@click.option(
    "--ram",
    "rams",
    multiple=True,
    metavar="SIZE|NAME",
    help="Installed RAM (32) or its class (dual DDR4-3200); give both by repeating it.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="P|GPU/CPU",
    default=("fp16/fp32", "int4"),
    show_default=True,
    help="fp32, fp16, int8, int4; two with a slash for GPU and CPU. Repeat it to compare.",
)
@click.option(
    "--context",
    "contexts",
    multiple=True,
    type=int,
    metavar="N",
    help="Tokens of prompt and answer.  [default: 2048, or the model's most]",
)
@click.option(
    "--slots",
    multiple=True,
    type=int,
    metavar="N",
    default=(1,),
    show_default=True,
    help="Requests that run at once.",
)
@click.option(
    "--policy",
    type=click.Choice(["fit", "reserve"]),
    default="fit",
    show_default=True,
    help="How blocks are placed; see `glm-plan plan --help`.",
)
@click.option(
    "--target-tps",
    type=float,
    metavar="RATE",
    help="Also find the cheapest listed card that gives each slot so many tokens per second.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="Where to write; the ending of a file tells its format.  [default: a table on screen]",
)
@click.option(
    "--format",
    "formats",
    metavar="LIST",
    help="Of html, md, csv, json, with commas.  [default: all of them into a directory]",
)
@click.option("--png", is_flag=True, help="Also write every chart as a picture for slides.")
def command(
    models: tuple[str, ...],
    gpus: tuple[str, ...],
    vram: tuple[str, ...],
    cpu: str | None,
    rams: tuple[str, ...],
    precisions: tuple[str, ...],
    contexts: tuple[int, ...],
    slots: tuple[int, ...],
    policy: str,
    target_tps: float | None,
    out: Path | None,
    formats: str | None,
    png: bool,
) -> None:
    """Tell what fits where, how fast, and what would have to change.

    Every combination of models, GPUs, precisions, contexts and slots gets a verdict with the
    constraint that binds. Pages and pictures need `pip install 'glm-plan[report]'`.

    \b
    glm-plan report --gpu "rtx 3060 12 gb" --gpu "rtx 4090" --out report.html
    glm-plan report --model qwen3-8b --context 2048 --context 32768 --target-tps 10
    glm-plan report --format csv > verdicts.csv
    """
    asked = Asked(models, gpus, vram, cpu, rams, precisions, contexts, slots, policy, target_tps)
    targets = _targets(formats, out)
    if png and out is None:
        raise UserInputError("--png needs a place for its pictures; name one with --out.")
    if png or "html" in targets:
        from scheduler.report.render import converter

        converter()  # a missing extra is told now, not after the work
    study = asked.study(_own_words(out, formats, png))

    from scheduler.report.build import build_report, study_cells

    if not targets:
        _show(study, list(study_cells(study)))
        return
    if list(targets) == ["csv"] and not png:  # a sweep of thousands, without charts and answers
        from scheduler.report.tables import report_csv

        _deliver({"csv": report_csv(study_cells(study))}, targets)
        return
    report = build_report(study)
    _deliver({kind: _text(report, kind) for kind in targets}, targets)
    if png and out is not None:
        _write_pictures(report, out)


def _deliver(texts: dict[str, str], targets: dict[str, Path]) -> None:
    """Write every format to its place, or the only one to stdout."""
    from scheduler.report.files import write_whole

    for kind, text in texts.items():
        if targets[kind] == _STDOUT:
            click.echo(text, nl=False)
        else:
            write_whole(targets[kind], text.encode())
            click.echo(f"Report written to {targets[kind]}.")


def _targets(formats: str | None, out: Path | None) -> dict[str, Path]:
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


def _own_words(out: Path | None, formats: str | None, png: bool) -> list[str]:
    """The flags about output, spelled again."""
    words = [] if out is None else ["--out", str(out)]
    words += [] if formats is None else ["--format", formats]
    return [*words, "--png"] if png else words


def _text(report: Report, kind: str) -> str:
    if kind == "html":
        from scheduler.report.page import report_html

        return report_html(report)
    if kind == "md":
        from scheduler.report.markdown import report_markdown

        return report_markdown(report)
    from scheduler.report.tables import report_csv, report_json

    return report_csv(report.cells) if kind == "csv" else f"{report_json(report)}\n"


def _write_pictures(report: Report, out: Path) -> None:
    from scheduler.report.files import write_whole
    from scheduler.report.render import png
    from scheduler.report.view import model_views

    folder = out.parent if out.suffix and not out.is_dir() else out
    charts = [chart for model in model_views(report) for chart in model.charts]
    for chart in charts:
        write_whole(folder / f"report-{chart.slug}.png", png(chart))
    click.echo(f"{len(charts)} pictures written to {folder}{os.sep}report-*.png.")


def _show(study: Study, cells: Sequence[Cell]) -> None:
    """The verdicts on screen, and how to get the rest."""
    from runtime.cli.tables import print_table
    from scheduler.report.build import cheapest_cards
    from scheduler.report.view import lead_of
    from scheduler.report.words import (
        VERDICT_WORDS,
        blocks_text,
        cheapest_text,
        limit_text,
        precision_text,
        rate_text,
        short_name,
    )

    speeds = " or ".join(sorted({cell.speed_provenance for cell in cells}))
    click.echo(lead_of(cells))
    click.echo()
    print_table(
        ("model", "on", "precision", "verdict"),
        ("context", "slots", "GPU blocks", "tok/s"),
        (
            (
                cell.model,
                short_name(cell.machine),
                precision_text(cell.gpu_precision, cell.cpu_precision),
                VERDICT_WORDS[cell.verdict],
                f"{cell.context_tokens:,}",
                str(cell.slots),
                blocks_text(cell),
                rate_text(cell.tokens_per_second_per_slot),
            )
            for cell in cells
        ),
        f"Memory estimated; tok/s of each slot at a full context, {speeds}.",
    )
    tight = [cell for cell in cells if not cell.fits]
    for cell in tight[:_LIMITS_SHOWN]:
        precision = precision_text(cell.gpu_precision, cell.cpu_precision)
        told = f"{cell.model} on {short_name(cell.machine)} at {precision}"
        click.echo(f"{told}: {limit_text(cell.limit)}.")
    for request, buy, alone in cheapest_cards(study):
        precision = precision_text(request.gpu_precision, request.cpu_precision)
        told = f"Cheapest card for {study.target_tps:g} tok/s, {request.model.name} at {precision}"
        click.echo(f"{told}: {cheapest_text(buy, alone, study.target_tps or 0)}.")
    click.echo("--out report.html makes the page: layer maps, charts, what would have to change.")
