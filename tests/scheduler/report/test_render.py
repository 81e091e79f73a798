"""Charts as pictures: real PNG files, and one sentence where the extra is missing."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.report.build import build_report
from scheduler.report.render import png
from scheduler.report.view import model_views
from tests.support.reports import hostile_study, study

ROOT = Path(__file__).parents[3]


def test_pictures_are_pngs_of_slide_size() -> None:
    for model in model_views(build_report(study())):
        for chart in (model.charts[0], model.charts[1], model.charts[-1]):
            picture = png(chart)
            assert picture[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", picture[16:24])
            assert 1600 <= width <= 2400
            assert 200 <= height <= 1600


def test_hostile_names_can_be_drawn() -> None:
    for model in model_views(build_report(hostile_study())):
        assert png(model.charts[0])[:4] == b"\x89PNG"


@pytest.mark.parametrize("missing", ["vl_convert", "jinja2"])
def test_a_missing_extra_is_one_sentence(missing: str, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None;"
        " from runtime.cli.main import main; main(sys.argv[1:])"
    )
    words = ["report", "--model", "tiny-glm", "--vram", "4", "--out", str(tmp_path / "r.html")]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'glm-plan[report]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
