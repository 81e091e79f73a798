"""The commands on a folder of the article's export, as a person meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.article_export import VOCABULARY, write_article_export
from tests.support.chatglm_checkpoint import Shape, random_tensors
from tests.support.tiny import REPOSITORY

SHAPE = Shape(hidden=128, heads=4, blocks=3, vocab=96)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("article") / "export"
    write_article_export(folder, random_tensors(SHAPE, seed=3), SHAPE, precision="fp16")
    return folder


def glm_plan(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_run_answers_the_same_at_every_split(export: Path) -> None:
    answers = []
    for gpu_blocks in range(SHAPE.blocks + 1):
        split = ("--vram", "4", "--gpu-blocks", str(gpu_blocks), "--max-tokens", "12")
        done = glm_plan("run", "--bundle", str(export), *split, "--json", "你好 the quick？")
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert len({answer["text"] for answer in answers}) == 1
    assert answers[0]["text"]
    assert [len(answer["timing"]["stages"]) for answer in answers] == [1, 2, 2, 2]


def test_chat_keeps_rounds_and_goes_on_after_an_unknown_character(export: Path) -> None:
    talk = "你好\nÄ\n你好？\n/quit\n"
    done = glm_plan("chat", "--bundle", str(export), "--max-tokens", "4", text=talk)
    assert done.returncode == 0, done.stderr
    assert "(the vocabulary has no token for 'Ä' (U+00C4" in done.stdout


def test_plan_and_inspect(export: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    given = ("--vram", "4", "--gpu-blocks", "2", "--out", str(plan))
    planned = glm_plan("plan", "--bundle", str(export), *given)
    assert planned.returncode == 0, planned.stderr
    assert f"glm-plan run --bundle {export}" in " ".join(planned.stdout.split())
    run = ("run", "--bundle", str(export), "--plan", str(plan), "--max-tokens", "3", "--json")
    stages = json.loads(glm_plan(*run, "你好").stdout)["timing"]["stages"]
    assert [stage["blocks"] for stage in stages] == ["0-1", "2-2"]
    inspected = glm_plan("bundle", "inspect", str(export))
    assert inspected.returncode == 0, inspected.stderr
    assert "no manifest" in inspected.stdout
    manifest = json.loads(glm_plan("bundle", "inspect", str(export), "--json").stdout)
    assert manifest["parts"][0]["variants"][0]["precision"] == "fp16"
    assert glm_plan("plan", "--bundle", str(export), "--model", "tiny-glm").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--temperature", "0.7", "你好"), "--temperature 0.7 needs logits"),
        (("--top-k", "4", "你好"), "--top-k 4 needs logits"),
        (("--top-p", "0.5", "你好"), "--top-p 0.5 needs logits"),
        (("--precision", "int4", "你好"), "not as mnn int4"),
        (("你好Ä",), "no token for 'Ä' (U+00C4 LATIN CAPITAL LETTER A WITH DIAERESIS)"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    export: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    refused(glm_plan("run", "--bundle", str(export), *arguments), sentence)


def test_damaged_folders_are_one_sentence(export: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(export, folder)
    (folder / "glm_block_1.mnn").unlink()
    for command in (("run", "x"), ("plan",), ("bundle", "inspect")):
        place = (str(folder),) if command[0] == "bundle" else ("--bundle", str(folder))
        refused(glm_plan(*command, *place), "has no glm_block_1.mnn")
    shutil.copy(export / "glm_block_1.mnn", folder)
    (folder / VOCABULARY).write_bytes(b"\xff\n")
    refused(glm_plan("run", "--bundle", str(folder), "x"), "not UTF-8 in line 1")


def refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
