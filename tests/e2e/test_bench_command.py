"""`glm-plan bench` on the tiny model: its document, its comparison, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bench.document import Bench, read_bench
from scheduler.errors import UserInputError
from tests.support.tiny import REPOSITORY


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", "bench", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = run(
        "--slots", "2", "--prompts", "5,70", "--outputs", "4", "--runs", "2", "--context", "128",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("bench") / "before.json"
    path.write_text(done.stdout, encoding="utf-8")
    return path


def test_every_case_is_measured_alone_and_together(measured: Path) -> None:
    bench = read_bench(measured)
    assert [case.key for case in bench.cases] == [(5, 4, 1), (70, 4, 1), (5, 4, 2), (70, 4, 2)]
    assert (bench.slots, bench.context_tokens, bench.provenance) == (2, 128, "measured")
    assert set(bench.rss_bytes) == {"driver", "cpu, blocks 0-7"}
    for case in bench.cases:
        (stage,) = case.stages
        assert stage.blocks == "0-7"
        parts = stage.decode_ms.median + case.lm_head_ms.median + case.hop_ms.median
        assert parts > 0
        assert case.step_ms.median >= stage.decode_ms.median
        assert case.decode_tokens_per_second.median > 0


def test_a_run_is_compared_and_drawn(measured: Path, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the report extra")
    chart = tmp_path / "speed.svg"
    done = run(
        "--prompts", "5", "--outputs", "4", "--runs", "1", "--compare", str(measured),
        "--chart", str(chart),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "times as fast as before" in done.stdout
    assert chart.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--prompts", "60", "--context", "64"), "need a context of 92"),
        (("--outputs", "1"), "an answer needs 2 tokens"),
        (("--prompts", "a"), "expected numbers such as 16,128"),
        (("--compare", "pyproject.toml"), "expected a result of glm-plan bench --json"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_another_document_is_named(tmp_path: Path, measured: Path) -> None:
    document = json.loads(measured.read_text(encoding="utf-8"))
    assert Bench.model_validate(document).cases
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document | {"schema": "glm-plan/plan/1"}), encoding="utf-8")
    with pytest.raises(UserInputError, match="is not a result of glm-plan bench"):
        read_bench(other)
