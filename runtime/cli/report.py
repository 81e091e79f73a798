"""`glm-plan report`: what fits where and how fast, as a page, Markdown, CSV, JSON or slides."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.given import given_options
from runtime.cli.report_output import (
    deliver,
    output_targets,
    output_words,
    report_text,
    write_pictures,
)
from runtime.report_study import Asked
from scheduler.errors import UserInputError


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
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask how many hosts of a TOML file are needed, instead; docs/cluster.md has its keys.",
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
    cluster_file: Path | None,
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
    glm-plan report --cluster lab.toml --target-tps 5 --out hosts.html
    """
    asked = Asked(models, gpus, vram, cpu, rams, precisions, contexts, slots, policy, target_tps)
    targets = output_targets(formats, out)
    if cluster_file is not None:
        from runtime.cli.cluster_report import report_cluster

        more_words = output_words(out, formats, png=False)
        report_cluster(asked, cluster_file, given_options(), targets, more_words)
        return
    if png and out is None:
        raise UserInputError("--png needs a place for its pictures; name one with --out.")
    if png or "html" in targets:
        from scheduler.report.render import converter

        converter()  # a missing extra is told now, not after the work
    study = asked.study(output_words(out, formats, png))

    from scheduler.report.build import build_report, study_cells

    if not targets:
        from runtime.cli.report_view import show

        show(study, list(study_cells(study)))
        return
    if list(targets) == ["csv"] and not png:  # a sweep of thousands, without charts and answers
        from scheduler.report.tables import report_csv

        deliver({"csv": report_csv(study_cells(study))}, targets)
        return
    report = build_report(study)
    deliver({kind: report_text(report, kind) for kind in targets}, targets)
    if png and out is not None:
        write_pictures(report, out)
