"""`glm-plan` for machines that are not here, under both policies, explained and as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.plan_file import read_plan
from scheduler.planned_host import RAM_SHARE_BYTES, VRAM_SHARE_BYTES
from scheduler.units import GIB
from tests.runtime.cli.test_plan_command import glm_plan, plan_document

ARTICLE = ("--gpu", "rtx 2080 ti", "--cpu", "ryzen 9 3900x", "--ram", "32")


def test_a_card_that_is_not_here() -> None:
    document = plan_document(*ARTICLE)
    (gpu,) = document["decision"]["gpus"]
    assert gpu["free_bytes"] == 11 * GIB - VRAM_SHARE_BYTES
    assert gpu["free_provenance"] == "estimated"
    assert document["ram"]["available_bytes"] == 32 * GIB - RAM_SHARE_BYTES
    assert document["ram"]["available_provenance"] == "estimated"
    # By hand: (11 - 0.5 - 2) x 1024 / 385 = 22.6.
    assert document["gpu_blocks"] == 22
    sources = [stage["source"] for stage in document["speed"]["stages"]]
    assert "RTX 2080 Ti" in sources[0]
    assert "3900X with 12 cores, dual DDR4-3200" in sources[1]
    assert any("512.0 MiB are left to driver" in note for note in document["notes"])


def test_stated_free_memory_replaces_the_share() -> None:
    document = plan_document(*ARTICLE, "--vram", "11")
    assert document["gpu_blocks"] == 23
    assert document["decision"]["gpus"][0]["free_provenance"] == "given"
    assert not any("left to driver" in note for note in document["notes"])
    words = "--gpu 'rtx 2080 ti' --vram 11 --cpu 'ryzen 9 3900x' --ram 32"
    assert words in document["command"]


def test_the_command_makes_the_same_plan_again() -> None:
    import shlex

    for policy in ("reserve", "fit"):
        first = plan_document(*ARTICLE, "--policy", policy)
        words = shlex.split(first["command"])
        flags = words[words.index("--gpu") : -1]
        again = plan_document("--model", first["model"], *flags)
        for part in ("stages", "decision", "speed", "command"):
            assert again[part] == first[part]


def test_several_cards_by_name() -> None:
    document = plan_document("--gpu", "rtx 3060 12gb", "--gpu", "rtx 2080 ti", "--ram", "64")
    devices = [gpu["free_bytes"] // GIB for gpu in document["decision"]["gpus"]]
    assert devices == [11, 10]


def test_shared_memory_is_counted_once() -> None:
    document = plan_document("--gpu", "Apple M2 16 GB", "--policy", "fit", "--context", "512")
    needed = sum(stage["memory"]["total_bytes"] for stage in document["stages"])
    assert needed < document["ram"]["needed_bytes"] <= 12 * GIB
    assert document["ram"]["available_bytes"] == 12 * GIB  # a quarter is the system's
    assert {stage["backend"] for stage in document["stages"]} <= {"mnn:metal", "mnn:cpu"}


def test_a_cap_on_vram() -> None:
    document = plan_document("--vram", "24", "--max-vram", "11")
    assert document["gpu_blocks"] == 23
    assert any("--max-vram holds gpu0 to 11.00 GiB" in note for note in document["notes"])
    for stage in plan_document("--vram", "24", "--max-vram", "8", "--policy", "fit", *RAM)[
        "stages"
    ]:
        if stage["device"] == "gpu0":
            assert stage["memory"]["total_bytes"] <= 8 * GIB


RAM = ("--ram", "64")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--gpu", "rtx 2080 tj"], "did you mean"),
        (["--gpu", "3090"], "could be"),
        (["--cpu", "ryzen 9 9999"], "CPU 'ryzen 9 9999' is unknown"),
        (["--ram", "triple DDR9"], "Memory class 'triple DDR9' is unknown"),
        (["--ram", "-3"], "--ram is '-3'"),
        (["--ram", "nan"], "--ram is 'nan'"),
        (["--ram", ""], "--ram is ''"),
        (["--ram", "32", "--ram", "64"], "--ram names two amounts"),
        (["--ram", "dual DDR4-3200", "--ram", "dual DDR5-5600"], "two memory classes"),
        (["--gpu", "rtx 2080 ti", "--vram", "24"], "more than the 11.00 GiB of a GeForce RTX 2080"),
        (["--gpu", "rtx 2080 ti", "--vram", "8", "--vram", "8"], "one --vram for each --gpu"),
        (["--gpu", "Apple M2 16 GB", "--ram", "32"], "leave --ram out"),
        (["--gpu", "Apple M2 16 GB", "--gpu", "rtx 2080 ti"], "beside another --gpu"),
        (["--max-vram", "x"], "--max-vram is 'x'"),
        (["--vram", "11", "--max-vram", "1", "--reserve", "2"], "leaves nothing beside --reserve"),
        (["--vram", "11", "--policy", "fit", "--gpu-blocks", "3"], "leave one of them out"),
        (["--vram", "11", "--objective", "throughput"], "is for --policy fit"),
        (
            ["--vram", "0", "--ram", "3", "--policy", "fit"],
            "it would swap",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], fragment: str) -> None:
    done = glm_plan(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert fragment in done.stderr
    assert done.stderr.count("\n") == 1


def test_fit_keeps_every_budget_and_says_what_it_chose() -> None:
    document = plan_document(*ARTICLE, "--policy", "fit")
    for stage in document["stages"]:
        if stage["device"] != "cpu":
            assert stage["memory"]["total_bytes"] <= stage["free_bytes"]
    assert document["ram"]["needed_bytes"] <= document["ram"]["available_bytes"]
    assert not document["warnings"]
    notes = " ".join(document["notes"])
    for word in ("Chosen:", "Also possible", "more VRAM"):
        assert word in notes
    fixed = plan_document(*ARTICLE, "--policy", "fit", "--precision", "int4", "--context", "512")
    assert {stage["precision"] for stage in fixed["stages"]} == {"int4"}
    assert not any("Chosen:" in note for note in fixed["notes"])


def test_fit_shortens_the_context_only_where_nothing_fits() -> None:
    document = plan_document("--vram", "0", "--ram", "8", "--policy", "fit")
    assert document["context_tokens"] < 2048
    assert any("Given up: 2048 tokens" in note for note in document["notes"])
    refused = glm_plan("--vram", "0", "--ram", "8", "--policy", "fit", "--context", "2048")
    assert refused.returncode == 2


def test_the_view_of_fit_on_80_columns() -> None:
    done = glm_plan(*ARTICLE, "--policy", "fit", "--explain", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    for fact in ("least seconds per token", "tok/s decode", "prefill", "lm_head", "One more block"):
        assert fact in done.stdout
    copied = ("  glm-plan run", "  glm-plan export")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(copied)]
    assert all(len(line) <= 80 for line in lines)


def test_explanations_are_in_the_document_too(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    done = glm_plan("--vram", "11", "--explain", "--json", "--out", str(path))
    told = json.loads(done.stdout)["explanation"]
    # By hand: 11 GiB - 2 GiB - 23 x 385 MiB = 361 MiB.
    assert any("361.0 MiB left" in sentence and "385.0 MiB" in sentence for sentence in told)
    assert any(sentence.startswith("One more block on gpu0") for sentence in told)
    assert read_plan(path).explanation == told


@pytest.mark.parametrize("policy", ["reserve", "fit"])
def test_the_table_has_every_split(policy: str) -> None:
    arguments = (*ARTICLE, "--policy", policy, "--context", "512")
    document = json.loads(glm_plan(*arguments, "--table", "--json").stdout)
    plan = plan_document(*arguments)
    assert document["schema"] == "glm-plan/table/1"
    rows: list[dict[str, Any]] = document["rows"]
    assert [row["gpu_blocks"] for row in rows] == list(range(29))
    assert all(row["gpu_blocks"] + row["cpu_blocks"] == 28 for row in rows)
    assert document["chosen_gpu_blocks"] == plan["gpu_blocks"]
    chosen = rows[plan["gpu_blocks"]]
    assert chosen["step_seconds"] == pytest.approx(plan["speed"]["step_seconds"])
    assert chosen["ram_bytes"] == plan["ram"]["needed_bytes"]
    assert chosen["fits"] or policy == "reserve"
    if policy == "fit":  # nothing that fits is faster
        assert chosen["step_seconds"] == min(row["step_seconds"] for row in rows if row["fits"])


def test_the_table_in_a_terminal() -> None:
    done = glm_plan(*ARTICLE, "--table")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("->") for line in lines) == 1
    assert "28 / 0" in done.stdout
    assert "short by" in done.stdout
    assert "estimated" in lines[-1]
