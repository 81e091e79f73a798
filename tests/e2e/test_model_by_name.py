"""From a hub to an answer by a model's name alone: pull, export on first use, run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub_server import Repo, hub_server
from tests.support.llama_checkpoint import QWEN3, write_checkpoint
from tests.support.tiny import TINY_CHECKPOINT

ROOT = Path(__file__).parents[2]
QUESTION = "What is the opposite of hot?"
ANSWER = "The opposite of hot is cold."

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory into which the tiny model's checkpoint was pulled as `small`."""
    data = tmp_path_factory.mktemp("data")
    with hub_server() as hub:
        hub.repos["someone/Tiny"] = Repo({one.name: one.read_bytes() for one in files()})
        done = glm_plan(data, "pull", "someone/Tiny", "--name", "small", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    return data


def files() -> list[Path]:
    return [one for one in TINY_CHECKPOINT.iterdir() if one.is_file()]


def glm_plan(data: Path, *words: str, **others: str) -> subprocess.CompletedProcess[str]:
    own = {"GLM_PLAN_DATA_DIR": str(data), "HF_HOME": str(data / "hf"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=data,
        env=os.environ | own | others,
        check=False,
    )


@pytest.fixture
def small(pulled: Path, tmp_path: Path) -> Run:
    """Commands over a store of one's own that holds the pulled model."""
    models = tmp_path / "models" / "small"
    (models / "checkpoint").mkdir(parents=True)
    for file in (pulled / "models" / "small").rglob("*"):
        if file.is_file():
            os.link(file, models / file.relative_to(pulled / "models" / "small"))
    return lambda *words, **others: glm_plan(tmp_path, *words, **others)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(data: Path) -> set[str]:
    manifest = data / "models" / "small" / "bundle" / "manifest.json"
    parts = json.loads(manifest.read_text(encoding="utf-8"))["parts"]
    return {variant["precision"] for part in parts for variant in part["variants"]}


def test_the_first_run_exports_and_the_second_does_not(small: Run, tmp_path: Path) -> None:
    first = small("run", "--model", "small", QUESTION)
    assert ok(first).strip() == ANSWER
    assert "small: exporting" in first.stderr
    assert str(tmp_path / "models" / "small" / "bundle") in first.stderr
    second = small("run", "--model", "small", "--json", QUESTION)
    assert json.loads(ok(second))["text"].strip() == ANSWER
    assert "exporting" not in second.stderr


def test_a_precision_that_is_not_there_yet_is_added(small: Run, tmp_path: Path) -> None:
    ok(small("run", "--model", "small", "--precision", "int8", QUESTION))
    assert stored(tmp_path) == {"int8"}
    added = small("run", "--model", "small", "--gpu-precision", "fp16", QUESTION)
    assert "at fp16" in added.stderr
    assert stored(tmp_path) == {"fp16", "int8"}
    # fp32 is served by the fp16 files
    assert "exporting" not in small("run", "--model", "small", "--precision", "fp32", "x").stderr


def test_export_by_name_and_what_is_stored_is_what_runs(small: Run, tmp_path: Path) -> None:
    exported = json.loads(ok(small("export", "small", "--precision", "int8", "--json")))
    assert exported["bundle"] == str(tmp_path / "models" / "small" / "bundle")
    assert exported["model"] == "small"
    done = small("run", "--model", "small", QUESTION)  # nothing is asked, so int8 it is
    assert "exporting" not in done.stderr
    assert ok(done).strip() == ANSWER
    plan = json.loads(ok(small("plan", "--model", "small", "--vram", "1", "--json")))
    assert {stage["precision"] for stage in plan["stages"]} == {"int8"}
    assert plan["command"].startswith("glm-plan run --model small --vram 1 --precision int8")


def test_a_path_without_out_goes_into_the_store(small: Run, tmp_path: Path) -> None:
    ok(small("export", str(TINY_CHECKPOINT), "--name", "mine"))
    assert (tmp_path / "models" / "mine" / "bundle" / "manifest.json").is_file()
    assert ok(small("run", "--model", "mine", QUESTION)).strip() == ANSWER


def test_a_saved_plan_exports_what_it_needs(small: Run, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    ok(small("plan", "--model", "small", "--vram", "1", "--precision", "int8", "--out", file))
    assert ok(small("run", "--plan", file, QUESTION)).strip() == ANSWER
    assert stored(tmp_path) == {"int8"}


def test_plans_say_how_to_get_a_model_that_is_not_here(small: Run) -> None:
    words = ok(small("plan", "--model", "chatglm-6b", "--vram", "11"))
    assert "\n  glm-plan pull chatglm-6b\n  glm-plan run --model chatglm-6b --vram 11 " in words
    words = ok(small("plan", "--model", "small", "--vram", "11"))
    assert "glm-plan pull" not in words
    assert "glm-plan run --model small --vram 11 " in words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--model", "qwen3-8b", "x"), "`glm-plan pull qwen3-8b` fetches it."),
        (("export", "qwen3-8b"), "`glm-plan pull qwen3-8b` fetches it."),
        (("run", "--model", "smal", "x"), "Model 'smal' is unknown; did you mean small"),
        (("export", "./nothing"), "nothing is not a directory"),
        (("export", "../qwen3-8b"), "qwen3-8b is not a directory"),
        (("export", str(TINY_CHECKPOINT), "--name", "../x"), "cannot be the name of a model"),
    ],
)
def test_what_is_not_here_is_one_sentence(
    small: Run, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = small(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert [one.name for one in (tmp_path / "models").iterdir()] == ["small"]


def test_a_qwen_by_its_short_name(tmp_path: Path) -> None:
    """The documented way, with random weights in Qwen3's layout behind the profile's repository."""
    checkpoint = tmp_path / "qwen"
    write_checkpoint(checkpoint, QWEN3, shards=3)
    with hub_server() as hub:
        content = {one.name: one.read_bytes() for one in checkpoint.iterdir()}
        hub.repos["Qwen/Qwen3-0.6B"] = Repo(content)
        ok(glm_plan(tmp_path, "pull", "qwen3-0.6b", HF_ENDPOINT=hub.url))
    ok(glm_plan(tmp_path, "export", "qwen3-0.6b", "--precision", "int8"))
    asked = ("--max-tokens", "4", "--json", "abc")
    answer = json.loads(ok(glm_plan(tmp_path, "run", "--model", "qwen3-0.6b", *asked)))
    assert answer["model"] == "qwen3-0.6b"
    (model,) = json.loads(ok(glm_plan(tmp_path, "models", "--disk", "qwen3-0.6b", "--json")))[
        "models"
    ]
    # the geometry is the exported model's own, not the profile's
    assert (model["blocks"], model["on_disk"]["precisions"]) == (2, ["int8"])
    assert model["repo"] == "Qwen/Qwen3-0.6B"
