"""`glm-plan bundle`: inspect, verify and diff, with exit codes that scripts can use."""

from __future__ import annotations

import json

import pytest

from runtime.bundle import read_manifest
from runtime.cli.main import main
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.manifest import Manifest
from tests.support.bundles import write_bundle, write_manifest
from tests.support.chatglm_checkpoint import Shape, write_checkpoint


@pytest.fixture
def run(capsys):
    """Run `glm-plan bundle ...` and return exit code, stdout, stderr."""

    def call(*words):
        code = 0
        try:
            main(["bundle", *map(str, words)])
        except SystemExit as ending:
            code = ending.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def bundle(tmp_path):
    write_bundle(tmp_path / "b", encodings=(("fp16", None), ("int4", 32)))
    return tmp_path / "b"


def test_inspect_shows_model_and_sizes(run, bundle):
    code, printed, _ = run("inspect", bundle)
    assert code == 0
    for word in ("test", "64 (4 heads of 16)", "mnn int4 block 32", "lm_head", "eos 95"):
        assert word in printed
    assert "0" * 64 in printed.replace("\n", "").replace("│", "").replace(" ", "")


def test_inspect_json_is_the_manifest(run, bundle):
    _, printed, _ = run("inspect", bundle, "--json")
    assert Manifest.model_validate_json(printed) == read_manifest(bundle)


def test_verify(run, bundle):
    code, printed, _ = run("verify", bundle)
    assert (code, printed.startswith("8 files")) == (0, True)
    (bundle / "notes.txt").write_text("mine")
    code, printed, _ = run("verify", bundle, "--json")
    assert code == 0
    assert json.loads(printed)["unlisted_files"] == ["notes.txt"]
    target = bundle / "mnn-int4-32" / "lm_head.mnn"
    target.write_bytes(target.read_bytes()[::-1])
    code, printed, errors = run("verify", bundle)
    assert code == 2
    assert "lm_head.mnn does not match its checksum" in errors
    assert "Traceback" not in errors


def test_diff_of_bundles_that_are_alike(run, tmp_path):
    write_bundle(tmp_path / "a")
    write_bundle(tmp_path / "b")
    code, printed, _ = run("diff", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "hold the same" in printed


def test_diff_names_facts_and_pieces(run, tmp_path):
    write_bundle(tmp_path / "a")
    manifest = write_bundle(tmp_path / "b", encodings=(("fp16", None), ("int8", None)))
    manifest["geometry"]["max_context"] = 512
    manifest["parts"][1]["variants"][0]["files"][0]["sha256"] = "1" * 64
    write_manifest(tmp_path / "b", manifest)
    code, printed, _ = run("diff", tmp_path / "a", tmp_path / "b", "--json")
    found = json.loads(printed)
    assert code == 1
    assert found["facts"] == [{"name": "geometry.max_context", "first": 256, "second": 512}]
    verdicts = {(one["piece"], one["encoding"]): one["verdict"] for one in found["pieces"]}
    assert verdicts["block_0", "mnn fp16"] == "identical"
    assert verdicts["block_1", "mnn fp16"] == "different"
    assert verdicts["lm_head", "mnn int8"] == "only in the second"
    code, printed, _ = run("diff", tmp_path / "b", tmp_path / "a")
    assert code == 1
    assert "only in the first" in printed
    assert "geometry.max_context" in printed


def test_two_exports_of_one_checkpoint_are_the_same(run, tmp_path):
    write_checkpoint(tmp_path / "c", Shape(hidden=32, heads=2, blocks=1, vocab=64))
    for name in "ab":
        export_bundle(ExportRequest(tmp_path / "c", tmp_path / name, ("fp16",)))
    code, printed, _ = run("diff", tmp_path / "a", tmp_path / "b", "--json")
    assert code == 0
    assert {one["verdict"] for one in json.loads(printed)["pieces"]} <= {
        "identical",
        "same weights",
    }


@pytest.mark.parametrize("words", [("inspect",), ("verify",), ("diff", ".")])
def test_what_is_no_bundle_is_one_sentence(run, tmp_path, words):
    code, _, errors = run(*words, tmp_path)
    assert code == 2
    assert errors.count("\n") == 1
