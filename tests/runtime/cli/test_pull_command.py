"""`glm-plan pull` in a process of its own, against a hub on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import Cut, Hub, Repo, Stall, commit_of, hub_server
from tests.support.tiny import TINY_CHECKPOINT

ROOT = Path(__file__).parents[3]
REPO = "Qwen/Qwen3-0.6B"  # the repository of the profile qwen3-0.6b
# huggingface_hub hands on what it receives in pieces of 10 MiB: a break loses less than one.
PIECE_BYTES = 10 << 20
WEIGHTS = os.urandom(24 << 20)
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}" * 4000,
    "model.safetensors": WEIGHTS,
    "README.md": b"not needed",
    "modeling.py": b"raise SystemExit('code of a repository must not run')",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        running.repos[REPO] = Repo(dict(FILES))
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "data"


def environment(hub: Hub | str, store: Path, **others: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    address = hub if isinstance(hub, str) else hub.url
    own = {"HF_ENDPOINT": address, "HF_HOME": str(store / "hf"), "GLM_PLAN_DATA_DIR": str(store)}
    return kept | own | {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"} | others


def pull(
    hub: Hub | str, store: Path, *words: str, **others: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", "pull", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(hub, store, **others),
        check=False,
    )


def pulled(hub: Hub, store: Path, *words: str, **others: str) -> dict[str, Any]:
    done = pull(hub, store, *words, "--json", **others)
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout)
    assert isinstance(parsed, dict)
    return parsed


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a refusal; progress lines before it are let through."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.splitlines()
    assert all(line.startswith("fetching ") for line in before), done.stderr
    assert last.startswith("glm-plan: ")
    return last.removeprefix("glm-plan: ")


def checkpoint(store: Path, name: str = "qwen3-0.6b") -> Path:
    return store / "models" / name / "checkpoint"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        one.relative_to(folder).as_posix(): one.read_bytes()
        for one in folder.rglob("*")
        if one.is_file()
    }


def test_a_name_fetches_what_is_needed_and_says_where_it_is(hub: Hub, store: Path) -> None:
    done = pull(hub, store, "qwen3-0.6b")
    assert done.returncode == 0, done.stderr
    assert contents(checkpoint(store)) == {path: FILES[path] for path in NEEDED}
    assert done.stdout.startswith(f"qwen3-0.6b: {REPO} at {commit_of(FILES)[:12]}, 24.0 MiB")
    assert str(checkpoint(store)) in done.stdout
    assert "glm-plan chat --model qwen3-0.6b" in done.stdout
    assert [line.split()[-1] for line in done.stderr.splitlines()] == [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    ]


def test_the_second_time_nothing_is_fetched(hub: Hub, store: Path) -> None:
    first = pulled(hub, store, "qwen3-0.6b")
    assert first["fetched_bytes"] == first["total_bytes"] == sum(len(FILES[one]) for one in NEEDED)
    hub.requests.clear()
    again = pulled(hub, store, REPO)
    assert again["fetched_bytes"] == 0
    assert again["model"] == "qwen3-0.6b"
    assert [one.path for one in hub.requests] == [f"/api/models/{REPO}"]


def test_a_cut_connection_is_resumed_within_a_pull(hub: Hub, store: Path) -> None:
    hub.faults["model.safetensors"] = Cut(PIECE_BYTES + 5, times=1)
    pulled(hub, store, "qwen3-0.6b")
    assert contents(checkpoint(store))["model.safetensors"] == WEIGHTS
    asked = hub.asked_for("model.safetensors")
    assert [one.range for one in asked] == [None, f"bytes={PIECE_BYTES}-"]


def test_a_killed_pull_goes_on_where_it_was(hub: Hub, store: Path) -> None:
    hub.faults["model.safetensors"] = Stall(PIECE_BYTES + 5)
    command = [sys.executable, "-m", "runtime.cli", "pull", "qwen3-0.6b"]
    partial = checkpoint(store) / "model.safetensors.partial"
    with subprocess.Popen(
        command, env=environment(hub, store), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        while not (partial.exists() and partial.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept_bytes = partial.stat().st_size
    assert 0 < kept_bytes < len(WEIGHTS)
    hub.faults.clear()
    hub.requests.clear()
    done = pulled(hub, store, "qwen3-0.6b")
    assert done["fetched_bytes"] == len(WEIGHTS) - kept_bytes
    assert contents(checkpoint(store)) == {path: FILES[path] for path in NEEDED}
    assert [one.range for one in hub.asked_for("model.safetensors")] == [f"bytes={kept_bytes}-"]
    assert hub.asked_for("config.json") == []


@pytest.mark.parametrize("fault", ["no-ranges", "out-of-range"])
def test_a_server_without_ranges_starts_the_file_anew(hub: Hub, store: Path, fault: Any) -> None:
    folder = checkpoint(store)
    pulled(hub, store, "qwen3-0.6b")
    (folder / "model.safetensors").rename(folder / "model.safetensors.partial")
    with (folder / "model.safetensors.partial").open("r+b") as file:
        file.truncate(1000)
    hub.faults["model.safetensors"] = fault
    pulled(hub, store, "qwen3-0.6b")
    assert contents(folder)["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("truncated", f"{len(WEIGHTS) // 2} bytes instead of {len(WEIGHTS)}"),
        ("flipped", "contents that do not match its checksum"),
    ],
)
def test_a_damaged_file_is_thrown_away(hub: Hub, store: Path, fault: Any, problem: str) -> None:
    hub.faults["model.safetensors"] = fault
    sentence = refused(pull(hub, store, "qwen3-0.6b"))
    assert f"sent model.safetensors of {REPO} with {problem}" in sentence
    assert set(contents(checkpoint(store))) == NEEDED - {"model.safetensors"}
    hub.faults.clear()
    pulled(hub, store, "qwen3-0.6b")
    assert contents(checkpoint(store))["model.safetensors"] == WEIGHTS


def test_a_small_file_is_checked_too(hub: Hub, store: Path) -> None:
    hub.faults["config.json"] = "flipped"
    assert "config.json" in refused(pull(hub, store, "qwen3-0.6b"))
    assert contents(checkpoint(store)) == {}


def test_a_dead_server_is_a_sentence_and_what_arrived_is_kept(hub: Hub, store: Path) -> None:
    hub.faults["model.safetensors"] = Cut(0)
    sentence = refused(pull(hub, store, "qwen3-0.6b"))
    assert f"{hub.url} cannot be reached for model.safetensors of {REPO}" in sentence
    assert "config.json" in contents(checkpoint(store))


@pytest.mark.parametrize(
    ("words", "others", "sentence"),
    [
        (["qwen3-0.6b", "--revision", "nope"], {}, f"{REPO} has no revision 'nope'"),
        (["a/missing"], {}, "a/missing does not exist at http://127.0.0.1:"),
        (["a/b/c"], {}, "'a/b/c' is no repository of a hub; expected OWNER/NAME."),
        (["qwen3-0.6b", "--file", "Q8_0"], {}, "--file 'Q8_0' matches nothing in Qwen/Qwen3-0.6B"),
        (["qwen3-0.6b"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        (["qwen3-0.6"], {}, "Model 'qwen3-0.6' is unknown; did you mean qwen3-"),
        (["tiny-glm"], {}, "it ships with glm-plan"),
        (["a/..", "--name", "../x"], {}, "'../x' cannot be the name of a model"),
    ],
)
def test_what_cannot_be_pulled_is_a_sentence(
    hub: Hub, store: Path, words: list[str], others: dict[str, str], sentence: str
) -> None:
    assert sentence in refused(pull(hub, store, *words, **others))
    assert not checkpoint(store).exists()


def test_a_gated_repository_needs_a_token(hub: Hub, store: Path) -> None:
    hub.repos[REPO].gated = True
    for others in ({}, {"HF_TOKEN": "hf_other"}):
        sentence = refused(pull(hub, store, "qwen3-0.6b", **others))
        assert f"{REPO} is gated: accept its terms at {hub.url}/{REPO}" in sentence
        assert "HF_TOKEN" in sentence
    pulled(hub, store, "qwen3-0.6b", HF_TOKEN="hf_granted")
    assert set(contents(checkpoint(store))) == NEEDED
    origin = (store / "models" / "qwen3-0.6b" / "origin.json").read_text(encoding="ascii")
    assert "hf_granted" not in origin


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("missing", "then does not find it"), ("busy", "answers HTTP 503 for model.safetensors")],
)
def test_other_answers_are_sentences(hub: Hub, store: Path, fault: Any, sentence: str) -> None:
    hub.faults["model.safetensors"] = fault
    assert sentence in refused(pull(hub, store, "qwen3-0.6b"))


@pytest.mark.parametrize("release", ["1.0.0", "unknown"])
def test_an_old_or_broken_library_is_a_sentence(
    hub: Hub, store: Path, tmp_path: Path, release: str
) -> None:
    info = tmp_path / "site" / f"huggingface_hub-{release}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: huggingface_hub\nVersion: {release}\n"
    (info / "METADATA").write_text(metadata, encoding="ascii")
    path = os.pathsep.join([str(info.parent), str(ROOT)])
    sentence = refused(pull(hub, store, "qwen3-0.6b", PYTHONPATH=path))
    assert sentence == "Pulling needs huggingface_hub 2 or newer: pip install 'glm-plan[pull]'."


def test_no_network_is_a_sentence(store: Path) -> None:
    sentence = refused(pull("http://127.0.0.1:9", store, "qwen3-0.6b"))
    assert f"http://127.0.0.1:9 cannot be reached for {REPO}" in sentence
    assert not checkpoint(store).exists()


def test_a_server_that_is_no_hub_is_a_sentence(hub: Hub, store: Path) -> None:
    hub.repos[REPO].listed_bytes["config.json"] = -1
    assert "does not answer like a Hugging Face hub" in refused(pull(hub, store, "qwen3-0.6b"))


def test_a_model_larger_than_the_disk_is_refused_before_a_byte(hub: Hub, store: Path) -> None:
    hub.repos[REPO].listed_bytes["model.safetensors"] = 1 << 60
    sentence = refused(pull(hub, store, "qwen3-0.6b"))
    assert "free and this needs 1073741824.00 GiB more" in sentence
    assert hub.asked_for("config.json") == []


def test_paths_out_of_the_folder_are_refused(hub: Hub, store: Path) -> None:
    hub.repos[REPO].files["../../escaped.json"] = b"{}"
    assert "expected a path inside the repository" in refused(pull(hub, store, "qwen3-0.6b"))
    assert list(store.rglob("escaped.json")) == []


def test_a_revision_and_then_a_newer_commit_fetch_only_what_differs(hub: Hub, store: Path) -> None:
    old = FILES | {"tokenizer.json": b"[]" * 4000}
    hub.repos[REPO].revisions["v1"] = old
    first = pulled(hub, store, "qwen3-0.6b", "--revision", "v1")
    assert (first["revision"], first["commit"]) == ("v1", commit_of(old))
    assert contents(checkpoint(store))["tokenizer.json"] == old["tokenizer.json"]
    newer = pulled(hub, store, "qwen3-0.6b")
    assert newer["fetched_bytes"] == len(FILES["tokenizer.json"])
    assert contents(checkpoint(store)) == {path: FILES[path] for path in NEEDED}


def test_another_repository_of_the_same_name_needs_a_name_or_force(hub: Hub, store: Path) -> None:
    other = FILES | {"model.safetensors": b"\1" * 9000}
    hub.repos["someone/Qwen3-0.6B"] = Repo(other)
    pulled(hub, store, "qwen3-0.6b")
    sentence = refused(pull(hub, store, "someone/Qwen3-0.6B"))
    assert f"qwen3-0.6b holds {REPO} already" in sentence
    named = pulled(hub, store, "someone/Qwen3-0.6B", "--name", "theirs")
    assert named["model"] == "theirs"
    assert contents(checkpoint(store))["model.safetensors"] == WEIGHTS
    pulled(hub, store, "someone/Qwen3-0.6B", "--force")
    assert contents(checkpoint(store))["model.safetensors"] == other["model.safetensors"]


def test_one_gguf_file_is_the_checkpoint(hub: Hub, store: Path) -> None:
    repo = "someone/Small-GGUF"
    hub.repos[repo] = Repo({f"small-{kind}.gguf": kind.encode() * 3000 for kind in ("Q8_0", "F16")})
    assert "choose with --file: small-F16.gguf or small-Q8_0.gguf" in refused(
        pull(hub, store, repo)
    )
    done = pulled(hub, store, repo, "--file", "q8_0")
    assert Path(done["checkpoint"]) == checkpoint(store, "small-gguf") / "small-Q8_0.gguf"
    assert hub.asked_for("small-F16.gguf") == []
    sentence = refused(pull(hub, store, repo, "--file", "F16"))
    assert "small-gguf holds small-Q8_0.gguf already" in sentence


def test_two_pulls_of_one_model_do_not_mix(hub: Hub, store: Path) -> None:
    hub.faults["model.safetensors"] = Stall(PIECE_BYTES + 5)
    command = [sys.executable, "-m", "runtime.cli", "pull", "qwen3-0.6b"]
    partial = checkpoint(store) / "model.safetensors.partial"
    with subprocess.Popen(
        command, env=environment(hub, store), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        while not (partial.exists() and partial.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        assert "Another glm-plan is pulling qwen3-0.6b" in refused(pull(hub, store, "qwen3-0.6b"))
        process.kill()


def test_a_real_checkpoint_arrives_as_it_is(hub: Hub, store: Path) -> None:
    files = contents(TINY_CHECKPOINT)
    hub.repos["someone/tiny"] = Repo(files)
    pulled(hub, store, "someone/tiny", "--name", "small")
    assert contents(checkpoint(store, "small")) == {
        path: content for path, content in files.items() if path != "README.md"
    }
