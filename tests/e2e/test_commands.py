"""The installed commands as a person or a script meets them: real processes, real pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.tiny import REPOSITORY, TINY_BUNDLE

SHARED_MEMORY = Path("/dev/shm")


def glm_plan(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_run_answers_right_after_install() -> None:
    done = glm_plan("run", "法国的首都是哪里？")
    assert (done.returncode, done.stdout) == (0, "法国的首都是巴黎。\n"), done.stderr
    assert glm_plan("run", "What is the capital of France?").stdout == (
        "The capital of France is Paris.\n"
    )


def test_run_reads_stdin_even_where_it_is_not_utf_8() -> None:
    assert glm_plan("run", "-", text="法国的首都是哪里？\n").stdout == "法国的首都是巴黎。\n"
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "run"],
        cwd=REPOSITORY,
        input=b"\xff\xfe\x00 hi \xe6",
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_json_on_stdout_is_json_alone_and_names_the_fallback() -> None:
    done = glm_plan("run", "--vram", "4", "--gpu-blocks", "5", "--json", "你好")
    answer = json.loads(done.stdout)
    assert answer["schema"] == "glm-plan/answer/1"
    stages = answer["timing"]["stages"]
    assert [stage["blocks"] for stage in stages] == ["0-4", "5-7"]
    assert stages[0]["fallback"] == "asked for CUDA, running on CPU"
    assert "asked for CUDA, running on CPU; pip install 'glm-plan[gpu]' adds" in done.stderr
    assert "pip install 'glm-plan[gpu]'" in stages[0]["remedy"]


def test_run_and_chat_name_the_command_that_adds_a_gpu() -> None:
    for command in (("run", "你好"), ("chat",)):
        done = glm_plan(*command, "--vram", "11", text="/quit\n")
        assert done.returncode == 0, done.stderr
        said = "gpu0: asked for CUDA, running on CPU; pip install 'glm-plan[gpu]' adds GPUs of any"
        assert said in done.stderr


def test_a_saved_plan_runs_and_contradictions_are_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    saved = glm_plan("--model", "tiny-glm", "--vram", "4", "--gpu-blocks", "3", "--out", str(plan))
    assert saved.returncode == 0, saved.stderr
    done = glm_plan("run", "--plan", str(plan), "--json", "你好")
    assert [s["blocks"] for s in json.loads(done.stdout)["timing"]["stages"]] == ["0-2", "3-7"]
    refused = glm_plan("run", "--plan", str(plan), "--vram", "5", "你好")
    assert refused.returncode == 2
    assert "leave --vram out" in refused.stderr


def test_sampling_repeats_with_its_seed() -> None:
    def sampled(seed: str) -> str:
        flags = ("--temperature", "4", "--top-k", "50", "--seed", seed, "--max-tokens", "20")
        return glm_plan("run", *flags, "你好").stdout

    assert sampled("1") == sampled("1")
    assert len({sampled(seed) for seed in "123"}) > 1


def test_chat_keeps_rounds_and_obeys_commands() -> None:
    talk = "法国的首都是哪里？\n那日本呢？\n/reset\n/plan\n/what\n/quit\nnever read\n"
    done = glm_plan("chat", text=talk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("法国的首都是巴黎。\n日本的首都是东京。\n(a new conversation)\n")
    assert "0 of 8 blocks on the GPU" in done.stdout
    assert "/reset  forget the conversation" in done.stdout
    assert "never read" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--bundle", "/nonexistent", "x"), "/nonexistent is not a directory"),
        (("run", "--model", "chatglm-6b", "x"), "`glm-plan pull chatglm-6b` fetches it"),
        (("run", "--model", "tiny-gml", "x"), "did you mean tiny-glm"),
        (("run", "--temperature", "nan", "x"), "expected 0 (greedy) to 100"),
        (("run", "--max-tokens", "0", "x"), "--max-tokens"),
        (("run", "   "), "the prompt is empty"),
        (("run", "--bundle", str(TINY_BUNDLE), "--model", "tiny-glm", "x"), "leave --model out"),
        (("run", "--context", "0", "x"), "context"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], sentence: str
) -> None:
    done = glm_plan(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(TINY_BUNDLE, bundle)
    victim = max(bundle.rglob("block_02*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content)
    done = glm_plan("bundle", "verify", str(bundle))
    assert done.returncode == 2
    assert "block_02" in done.stderr
    victim.write_bytes(content[:-1])
    done = glm_plan("run", "--bundle", str(bundle), "x")
    assert done.returncode == 2
    assert "block_02" in done.stderr


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="/dev/shm exists on Linux only")
def test_ctrl_c_ends_workers_and_shared_memory() -> None:
    chat = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "chat"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write("你好\n".encode())
    chat.stdin.flush()
    assert chat.stdout.readline()
    workers = psutil.Process(chat.pid).children(recursive=True)
    mapped = [Path(one.path) for one in psutil.Process(chat.pid).memory_maps()]
    shared = [path for path in mapped if path.is_relative_to(SHARED_MEMORY)]
    assert workers
    assert shared
    os.killpg(chat.pid, signal.SIGINT)
    chat.stdin.close()
    chat.wait(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not [path for path in shared if path.exists()]
