"""`glm-plan report --cluster`: how many hosts a model needs, on screen or in files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.report_output import deliver
from runtime.report_study import Asked, read_precision, report_version
from scheduler.errors import UserInputError

if TYPE_CHECKING:
    from scheduler.report.cluster_report import ClusterReport

_OF_ONE_MACHINE = {
    "gpus": "--gpu",
    "vram": "--vram",
    "cpu": "--cpu",
    "rams": "--ram",
    "png": "--png",
}


def report_cluster(
    asked: Asked,
    file: Path,
    given: set[str],
    targets: dict[str, Path],
    more_words: Sequence[str],
) -> None:
    """Plan for 1, 2, ... hosts of the file, and print or write what comes out.

    Raises UserInputError for options that describe a single machine, and for several models.
    """
    for name in sorted(given & set(_OF_ONE_MACHINE)):
        raise UserInputError(
            f"--cluster describes every host, and {_OF_ONE_MACHINE[name]} is for reports about one"
            " machine; leave one of them out."
        )
    if "policy" in given and asked.policy != "fit":
        raise UserInputError(
            "--policy reserve is a rule for one machine; hosts of a --cluster are filled by fit."
        )
    if len(asked.models) > 1:
        raise UserInputError("--cluster takes one --model; make a report for each.")
    if "html" in targets:
        from scheduler.report.render import converter

        converter()  # a missing extra is told now, not after the work
    report = _report(asked, file, more_words)
    if targets:
        deliver({kind: _text(report, kind) for kind in targets}, targets)
        return
    from runtime.cli.tables import print_table
    from scheduler.report.cluster_words import COLUMNS, NOTE, lead_of_cluster, row_of

    for sentence in lead_of_cluster(report):
        click.echo(sentence)
    click.echo()
    numbers = COLUMNS[1:-1]
    print_table(COLUMNS[:1], numbers, map(row_of, report.sizes), NOTE, COLUMNS[-1:])


def _report(asked: Asked, file: Path, more_words: Sequence[str]) -> ClusterReport:
    from datetime import date

    from runtime.on_disk import spec_by_name
    from scheduler.cluster_file import read_cluster
    from scheduler.report.cluster_report import ClusterStudy, build_cluster_report

    asked.check()
    command = ["glm-plan", "report", "--cluster", str(file), *asked.words(), *more_words]
    return build_cluster_report(
        ClusterStudy(
            model=spec_by_name(asked.models[0]),
            cluster=read_cluster(file),
            precisions=list(dict.fromkeys(map(read_precision, asked.precisions))),
            contexts=list(dict.fromkeys(asked.contexts)) or [None],
            slots=list(dict.fromkeys(asked.slots)),
            target_tps=asked.target_tps,
            command=shlex.join(command),
            version=report_version(),
            date=date.today().isoformat(),
        )
    )


def _text(report: ClusterReport, kind: str) -> str:
    if kind == "html":
        from scheduler.report.cluster_page import cluster_html

        return cluster_html(report)
    from scheduler.report.cluster_words import cluster_csv, cluster_json, cluster_markdown

    if kind == "md":
        return cluster_markdown(report)
    return cluster_csv(report) if kind == "csv" else f"{cluster_json(report)}\n"
