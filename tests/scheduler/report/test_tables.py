"""Reports as data: what is written is read back the same, and only sound reports are read."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from scheduler.capacity import judge, sweep
from scheduler.errors import UserInputError
from scheduler.report.build import build_report
from scheduler.report.document import Report
from scheduler.report.tables import CSV_COLUMNS, read_report, report_csv, report_json
from scheduler.request import PlanRequest
from tests.support.reports import HOSTILE, hostile_study, study

REPORT = build_report(study(contexts=(512, 2048), slots=(1, 8)))


@pytest.mark.parametrize("policy", ["fit", "reserve"])
def test_json_survives_a_round_trip(policy: Any) -> None:
    report = build_report(study(policy=policy))
    text = report_json(report)
    assert text.isascii()
    assert read_report(text, "it") == report
    assert json.loads(text)["schema"] == "glm-plan/report/1"


def test_a_hostile_report_survives_a_round_trip() -> None:
    report = build_report(hostile_study())
    assert read_report(report_json(report), "it") == report


def test_csv_holds_the_numbers_of_every_cell() -> None:
    lines = list(csv.DictReader(io.StringIO(report_csv(REPORT.cells), newline="")))
    assert len(lines) == len(REPORT.cells) == 3 * 2 * 2 * 2
    for line, cell in zip(lines, REPORT.cells, strict=True):
        assert tuple(line) == CSV_COLUMNS
        assert line["verdict"] == cell.verdict
        assert sum(map(int, line["gpu_blocks"].split("+"))) == cell.gpu_blocks
        assert [int(n) for n in filter(None, line["vram_needed_bytes"].split("+"))] == list(
            cell.vram_needed_bytes
        )
        for column in ("ram_needed_bytes", "context_tokens", "slots", "blocks", "prompt_tokens"):
            assert int(line[column]) == getattr(cell, column)
        for column in ("tokens_per_second", "tokens_per_second_per_slot", "ttft_seconds"):
            value = getattr(cell, column)
            assert line[column] == "" if value is None else float(line[column]) == value
        assert (line["memory_provenance"], line["speed_provenance"]) == ("estimated", "estimated")


def test_csv_hands_no_formula_to_a_spreadsheet() -> None:
    from dataclasses import replace

    hostile = hostile_study()
    models = [replace(hostile.models[0], name=start + "cmd") for start in "=+-@\t"]
    text = report_csv(build_report(replace(hostile, models=models)).cells)
    for line in csv.reader(io.StringIO(text, newline="")):
        assert not line[0].startswith(("=", "+", "-", "@", "\t"))
    (line, *_) = csv.DictReader(io.StringIO(report_csv(build_report(hostile).cells), newline=""))
    assert line["model"] == HOSTILE


def test_a_report_holds_what_its_study_asks() -> None:
    asked = study()
    report = build_report(asked)
    assert report.cells == list(
        sweep(asked.models, asked.machines, asked.precisions, [None], [1], "fit")
    )
    assert len(report.answers) == len(report.machines) * len(asked.precisions) == 6
    assert {curve.against for curve in report.curves} == {"vram", "context", "slots"}
    assert all(answers.setting.context_tokens == 2048 for answers in report.answers)
    for drawn in report.plans:
        (now,) = [given.now for given in report.answers if given.setting == drawn.setting]
        assert now.fits
        assert now.gpu_blocks == drawn.plan.gpu_blocks
    for curve in report.curves:
        assert [point.x for point in curve.points] == sorted({point.x for point in curve.points})
        here = next(m for m in asked.machines if m.name == curve.setting.machine)
        for point in curve.points[:: max(1, len(curve.points) // 4)]:
            request = PlanRequest(
                asked.models[0],
                gpu_precision=curve.setting.gpu_precision,
                cpu_precision=curve.setting.cpu_precision,
                context=point.x if curve.against == "context" else 2048,
                slots=point.x if curve.against == "slots" else 1,
                policy="fit",
            )
            where = here.with_vram(point.x) if curve.against == "vram" else here
            cell = judge(request, where)
            assert (point.verdict, point.gpu_blocks) == (cell.verdict, cell.gpu_blocks)
            assert point.tokens_per_second == cell.tokens_per_second


def test_too_many_combinations_are_refused() -> None:
    asked = study(contexts=range(1, 2001), slots=range(1, 101))
    with pytest.raises(UserInputError, match=r"asks for 1,200,000 combinations; the most is"):
        build_report(asked)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has schema 'None'"),
        ('{"schema": "glm-plan/report/2"}', "has schema 'glm-plan/report/2'; expected"),
        ('{"schema": "glm-plan/report/1"}', "is not a sound report: version: Field required"),
    ],
)
def test_what_is_no_report_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserInputError) as caught:
        read_report(text, "r.json")
    assert str(caught.value).startswith("r.json ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused() -> None:
    document = json.loads(report_json(REPORT)) | {"surprise": 1}
    with pytest.raises(UserInputError, match="surprise"):
        read_report(json.dumps(document), "r.json")
    assert Report.model_config["extra"] == "forbid"
