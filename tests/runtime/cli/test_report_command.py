"""`glm-plan report` in a process of its own: files, pipes, and refusals of one sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.report_study import read_cards, read_precision
from scheduler.errors import UserInputError
from scheduler.report.tables import read_report

ROOT = Path(__file__).parents[3]
ELSEWHERE = ("--cpu", "Ryzen 9 3900X", "--ram", "32")


def run(
    *words: str, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", "report", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=(env or dict(os.environ)) | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        check=False,
    )


def test_a_table_on_screen() -> None:
    done = run("--gpu", "rtx 2080 ti", "--gpu", "gtx 1650", *ELSEWHERE)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if line.startswith("chatglm-6b ")]
    assert len(rows) == 4
    assert sum("RTX 2080 Ti" in row for row in rows) == 2
    assert "estimated" in done.stdout


def test_a_directory_gets_every_format_and_pictures(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    words = ("--gpu", "rtx 3060 12 gb", *ELSEWHERE, "--target-tps", "5", "--out", str(out))
    done = run(*words, "--png")
    assert (done.returncode, done.stderr) == (0, "")
    names = sorted(file.name for file in out.iterdir())
    assert [n for n in names if not n.endswith(".png")] == [
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert len([n for n in names if n.endswith(".png")]) == 2 * 2 + 4
    report = read_report((out / "report.json").read_text(), "report.json")
    assert shlex.split(report.command)[:2] == ["glm-plan", "report"]
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    lines = list(csv.reader((out / "report.csv").open(newline="", encoding="utf-8")))
    assert len(lines) == 1 + len(report.cells)


def test_the_command_in_a_report_makes_it_again(tmp_path: Path) -> None:
    words = ("--model", "qwen3-8b", "--gpu", "rtx 4090 + rtx 3060 12 gb", *ELSEWHERE)
    options = ("--context", "4096", "--slots", "4", "--policy", "reserve", "--out", "it.json")
    assert run(*words, *options, cwd=tmp_path).returncode == 0
    first = read_report((tmp_path / "it.json").read_text(), "it.json")
    assert first.machines[0].name == "GeForce RTX 4090 + GeForce RTX 3060 12 GB"
    again = shlex.split(first.command)
    assert run(*again[2:], cwd=tmp_path).returncode == 0
    assert read_report((tmp_path / "it.json").read_text(), "it.json") == first


def test_one_format_goes_into_a_pipe() -> None:
    done = run("--vram", "11", "--vram", "24", *ELSEWHERE, "--format", "csv")
    assert (done.returncode, done.stderr) == (0, "")
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [line["vram_free_bytes"] for line in lines] == [str(11 << 30)] * 2 + [str(24 << 30)] * 2
    document = json.loads(run("--vram", "11", "--format", "json").stdout)
    assert document["schema"] == "glm-plan/report/1"
    assert document["machines"][0]["gpus"][0]["free_provenance"] == "given"


def test_this_machines_gpus_are_measured(fake_nvml: Callable[..., dict[str, str]]) -> None:
    env = fake_nvml(gpus="RTX 3090|24576|20480")
    done = run("--precision", "int4", "--format", "json", env=env)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (machine,) = document["machines"]
    assert machine["gpus"][0]["free_bytes"] == 20480 << 20
    assert machine["gpus"][0]["free_provenance"] == "measured"
    assert machine["ram_provenance"] == "measured"
    assert document["cells"][0]["verdict"] == "resident"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model", "nope"), "Model 'nope' is unknown"),
        (("--gpu", "rtx 99"), "GPU 'rtx 99' is unknown"),
        (("--gpu", "rtx 4090", "--vram", "1", "--vram", "2"), "one --vram for each"),
        (("--gpu", "rtx 4090", "--vram", "25"), "more than the 24.00 GiB of a GeForce RTX 4090"),
        (("--vram", "much"), "--vram is 'much'"),
        (("--precision", "fp8"), "--precision is 'fp8'; expected one of fp32, fp16, int8, int4"),
        (("--precision", "fp16/fp32/int4"), "two with a slash"),
        (("--context", "0"), "--context is 0; expected 1 token or more"),
        (("--slots", "0"), "--slots is 0; expected 1 to 1024"),
        (("--target-tps", "0"), "--target-tps is 0; expected a rate above 0"),
        (("--target-tps", "inf"), "--target-tps is inf"),
        (("--out", "report.pdf"), "ends in .pdf; expected .html, .md, .csv, .json"),
        (("--out", "report.html", "--format", "csv"), "is a .html file and --format says 'csv'"),
        (("--format", "csv,xls"), "--format is 'csv,xls'; expected some of html, md, csv, json"),
        (("--format", "csv,json"), "--format names 2 formats; name a directory"),
        (("--png",), "--png needs a place"),
        (("--vram", "4", "--out", "/dev/null/report.csv"), "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.startswith("glm-plan: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_table_loads_neither_engines_nor_charts() -> None:
    script = (
        "import sys; from runtime.cli.main import cli;"
        " cli.main(['report', '--vram', '11', '--format', 'csv'], standalone_mode=False);"
        " print([n for n in ('numpy', 'MNN', 'jinja2', 'vl_convert', 'rich') if n in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr.strip() == "[]"


def test_precisions_and_cards_are_read() -> None:
    assert read_precision("INT4") == ("int4", "int4")
    assert read_precision("fp16/fp32") == ("fp16", "fp32")
    assert read_cards("RTX 3090") == ("RTX 3090",)
    assert read_cards("2x RTX 3090 + RTX 3060 12 GB") == ("RTX 3090", "RTX 3090", "RTX 3060 12 GB")
    for wrong in ("", "/", "fp16/", "4"):
        with pytest.raises(UserInputError, match="--precision"):
            read_precision(wrong)


def test_help_shows_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in (
        "--model",
        "--gpu",
        "--precision",
        "--context",
        "--slots",
        "--target-tps",
        "--out",
        "--format",
        "--png",
    ):
        assert flag in done.stdout
