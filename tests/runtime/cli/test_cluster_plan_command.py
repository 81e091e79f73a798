"""`glm-plan plan --cluster` as a real process: what it prints, saves and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.cluster_plan_file import read_cluster_plan
from tests.runtime.cli.test_plan_command import glm_plan
from tests.scheduler.test_cluster_file import SOUND


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "lab.toml"
    path.write_text(SOUND)
    return str(path)


def test_text_names_hosts_hops_and_where_figures_come_from(file: str) -> None:
    done = glm_plan("plan", "--cluster", file, "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("chatglm-6b: 28 blocks over 2 of 5 hosts")
    for told in ("desk", "pc-1", "hidden fp32 16.0 KiB", "(estimated)", "given", "exact", "idle"):
        assert told in done.stdout
    assert "hops over the network carry" in " ".join(done.stdout.split())


def test_json_is_the_saved_document_and_its_command_makes_it_again(
    file: str, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    flags = ["--precision", "int4", "--wire", "fp16", "--objective", "throughput", "--slots", "8"]
    done = glm_plan("plan", "--cluster", file, *flags, "--json", "--out", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document == json.loads(out.read_text())
    plan = read_cluster_plan(out)
    assert (plan.wire, plan.objective, plan.slots) == ("fp16", "throughput", 8)
    assert plan.command is not None
    again = glm_plan(*plan.command.split()[1:], "--json")
    assert json.loads(again.stdout) == document


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--gpu", "rtx 3090"], "--gpu is about one machine"),
        (["--vram", "11"], "--vram is about one machine"),
        (["--gpu-blocks", "3"], "--gpu-blocks is about one machine"),
        (["--table"], "--table is about one machine"),
        (["--policy", "reserve"], "--policy reserve is a rule for one machine"),
        (["--context", "100000"], "--context is 100000; chatglm-6b takes 1 to 2048"),
    ],
)
def test_flags_that_contradict_a_cluster_are_refused(
    file: str, flags: list[str], told: str
) -> None:
    done = glm_plan("plan", "--cluster", file, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wire_without_a_cluster_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    alone = glm_plan("plan", "--wire", "fp16", "--vram", "11")
    assert alone.returncode == 2
    assert "--wire is about the network between hosts" in alone.stderr
    missing = glm_plan("plan", "--cluster", str(tmp_path / "none.toml"))
    assert missing.returncode == 2
    assert "none.toml cannot be read" in missing.stderr


def test_a_cluster_too_small_says_how_much_is_missing_where(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('[[host]]\nname = "mini"\ncount = 2\nfree_ram = "2GiB"\n')
    done = glm_plan("plan", "--cluster", str(path), "--precision", "int4")
    assert (done.returncode, done.stdout) == (2, "")
    assert "mini-1 has RAM" in done.stderr
    assert "more RAM it would take the rest" in done.stderr


def test_reports_tell_how_many_hosts_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "pcs.toml"
    path.write_text('[[host]]\nname = "pc"\ncount = 3\nvram = [4]\nram = 8\nprice_usd = 400\n')
    flags = ["--cluster", str(path), "--precision", "int4", "--context", "256"]
    shown = glm_plan("report", *flags, "--target-tps", "1")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "1 slot: " in shown.stdout
    assert "1 tok/s for each slot need" in shown.stdout
    assert "estimated" in shown.stdout
    done = glm_plan("report", *flags, "--format", "json")
    document = json.loads(done.stdout)
    assert document["schema"] == "glm-plan/cluster-report/1"
    assert [size["price_usd"] for size in document["sizes"]] == [400, 800, 1200]
    for words, told in (
        (["--gpu", "rtx 3090"], "--gpu is for reports about one machine"),
        (["--model", "qwen3-8b", "--model", "qwen3-4b"], "--cluster takes one --model"),
        (["--policy", "reserve"], "--policy reserve is a rule for one machine"),
    ):
        refused = glm_plan("report", *flags, *words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert told in refused.stderr
