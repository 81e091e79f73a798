"""`glm-plan plan`, also as bare `glm-plan`, as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.plan_file import read_plan

REPOSITORY = Path(__file__).parents[3]
SNAPSHOTS = REPOSITORY / "tests/snapshots"
CLUSTER = REPOSITORY / "tests/data/lab.toml"


def glm_plan(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        cwd=REPOSITORY,
        env=plain | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def plan_document(*arguments: str) -> dict[str, Any]:
    done = glm_plan(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def key_paths(value: Any, path: str = "") -> list[str]:
    """Every key of a document, once, in the order in which it appears."""
    if isinstance(value, dict):
        below = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        return [line for name, item in below for line in [name, *key_paths(item, name)]]
    if isinstance(value, list):
        lines = [line for item in value for line in key_paths(item, f"{path}[]")]
        return list(dict.fromkeys(lines))
    return []


def test_eleven_gibibytes() -> None:
    document = plan_document("--vram", "11")
    assert plan_document("plan", "--vram", "11GiB")["decision"] == document["decision"]
    assert (document["gpu_blocks"], document["cpu_blocks"]) == (23, 5)
    assert document["decision"]["block_bytes"] == 385 << 20
    assert plan_document("--vram", "11", "--precision", "fp32")["gpu_blocks"] == 11


@pytest.mark.parametrize(
    ("arguments", "gpu_blocks"),
    # By hand: (GiB - 2) x 1024 / 385.
    [
        (["--vram", "0"], 0),
        (["--vram", "1.5"], 0),
        (["--vram", "2433MiB"], 1),
        (["--vram", "11.5"], 25),
        (["--vram", "11000MiB"], 23),
        (["--vram", "1000000"], 28),
        (["--vram", "6", "--vram", "5"], 17),
        (["--vram", "6", "--reserve", "0"], 15),
        (["--vram", "6", "--gpu-blocks", "20"], 20),
        (["--gpu-blocks", "0"], 0),
    ],
)
def test_amounts_that_are_normal_answers(arguments: list[str], gpu_blocks: int) -> None:
    document = plan_document(*arguments)
    assert document["gpu_blocks"] == gpu_blocks
    assert sum(len(_blocks(stage)) for stage in document["stages"]) == 28


def _blocks(stage: dict[str, Any]) -> range:
    if stage["first_block"] is None:
        return range(0)
    return range(stage["first_block"], stage["last_block"] + 1)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--vram", "-3"], "--vram is '-3'"),
        (["--vram=-3"], "--vram is '-3'"),
        (["--vram", "nan"], "--vram is 'nan'"),
        (["--vram", "inf"], "--vram is 'inf'"),
        (["--vram", ""], "--vram is ''"),
        (["--vram", "much"], "--vram is 'much'"),
        (["--vram", "11", "--vram", "x"], "--vram is 'x'"),
        (["--vram", "9" * 17], "more than 1 EiB"),
        (["--vram", "9" * 100_000], "--vram is '999"),
        (["--vram", "11", "--reserve", "-1"], "--reserve is '-1'"),
        (["--precision", "int4", "--gpu-precision", "fp16"], "--precision sets both sides"),
        (["--precision", "int4", "--cpu-precision", "fp16"], "--precision sets both sides"),
        (["--gpu-blocks", "-1"], "--gpu-blocks is -1"),
        (["--context", "2049"], "takes 1 to 2048 tokens"),
        (["--slots", "0"], "--slots is 0"),
        (["--model", "chatglm-7b"], "did you mean chatglm-6b"),
        (["--vram", "11", "--out", "missing/plan.json"], "cannot be written to missing/plan.json"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(arguments: list[str], fragment: str) -> None:
    done = glm_plan(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("glm-plan: ")
    assert fragment in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 300


@pytest.mark.parametrize(
    "arguments",
    [["--vram"], ["--gpu-blocks", "x"], ["--precision", "fp8"], ["--policy", "x"], ["--nonsense"]],
)
def test_bad_usage_is_exit_2_without_traceback(arguments: list[str]) -> None:
    done = glm_plan(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert arguments[0] in done.stderr


def test_out_writes_the_plan_that_json_prints(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    done = glm_plan("--vram", "11", "--json", "--out", str(path))
    assert done.returncode == 0
    assert path.read_text() == done.stdout
    assert read_plan(path).gpu_blocks == 23


def test_the_terminal_view_answers_on_80_columns() -> None:
    done = glm_plan("--vram", "11", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    answer = done.stdout
    for fact in (
        "chatglm-6b: 23 of 28 blocks on the GPU, 5 on the CPU",
        "floor((11.00 GiB - 2.00 GiB) / 385 MiB) = 23, of 28",
        "blocks 0-22",
        "blocks 23-27",
        "lm_head fp32",
        "embedding",
        "█" * 46 + "░" * 10,
        "estimated",
        "given",
        "--vram 11 --gpu-precision fp16 --cpu-precision fp32",
    ):
        assert fact in answer
    assert "\x1b" not in answer  # no colour in a pipe
    command = [line for line in answer.splitlines() if line.startswith("  glm-plan run")]
    assert len(command) == 1  # whole, to be copied
    assert all(len(line) <= 80 for line in answer.splitlines() if line not in command)


def test_colour_only_where_it_is_wanted() -> None:
    assert "\x1b[32m" in glm_plan("--vram", "11", FORCE_COLOR="1").stdout
    assert "\x1b[32m" not in glm_plan("--vram", "11", FORCE_COLOR="1", NO_COLOR="1").stdout


def test_a_terminal_without_block_characters_gets_ascii() -> None:
    done = glm_plan("--vram", "11", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "#" * 46 + "." * 10 in done.stdout


def test_many_gpus_can_be_told_apart() -> None:
    done = glm_plan(*["--vram", "4"] * 5)
    assert "00000000001111111111222222222233333333334444444444" in done.stdout


def test_a_reader_that_leaves_early_is_no_error() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "--vram", "11"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.close()
    _, errors = child.communicate(timeout=60)
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"pydantic", "rich", "psutil", "pynvml"}),
        (["plan", "--help"], {"pydantic", "rich", "psutil", "pynvml"}),
        (["--vram", "11", "--json"], {"rich", "pynvml"}),
        (["--vram", "11"], {"pynvml"}),
        (["plan", "--cluster", str(CLUSTER)], {"pynvml", "ray"}),
        ([], set()),
    ],
)
def test_planning_starts_lean(arguments: list[str], unwanted: set[str]) -> None:
    program = (
        "import sys\n"
        "from runtime.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as done:\n"
        "    assert not done.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not loaded & (unwanted | {"MNN", "_mnncengine", "numpy", "onnx", "sentencepiece"})


@pytest.mark.parametrize(("snapshot", "arguments"), [("plan_help.txt", ["plan", "--help"])])
def test_help_is_a_contract(snapshot: str, arguments: list[str]) -> None:
    done = glm_plan(*arguments, COLUMNS="80")
    assert done.stdout == (SNAPSHOTS / snapshot).read_text(encoding="utf-8")


def test_json_keys_are_a_contract() -> None:
    keys = key_paths(plan_document("--vram", "11"))
    assert keys == (SNAPSHOTS / "plan_json_keys.txt").read_text(encoding="utf-8").split()
