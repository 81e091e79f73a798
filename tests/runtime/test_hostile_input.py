"""Files and words made to hurt: each is refused by one sentence, or does what it says, no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import open_bundle
from runtime.chat_format import chat_format_of
from runtime.cli.main import main
from runtime.export.families.hf_config import read_decoder_config
from runtime.export.shards import list_shards
from runtime.export.tokenizer_settings import TokenizerSettings
from runtime.tokenizer import Tokenizer
from scheduler.errors import BundleError, CheckpointError, GlmPlanError, PlanError, UserInputError
from scheduler.hf_config import read_hf_config
from scheduler.host_store import hosts_dir, load_host
from scheduler.plan_file import read_plan
from tests.support.bundles import write_bundle, write_manifest
from tests.support.llama_checkpoint import LLAMA
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE_JSON = {
    "deep nesting": DEEP,
    "deep objects": '{"a":' * 100_000,
    "duplicate keys": '{"schema": "x", "schema": "y"}',
    "NaN": '{"schema": NaN}',
    "infinity": '{"schema": -Infinity}',
    "digits": f'{{"schema": {"9" * 5000}}}',
    "half a character": '{"schema": "\\ud800"}',
    "a list": "[1, 2]",
    "nothing": "",
    "not UTF-8": '{"schema": "\udcff"}',
    "null characters": "\0" * 100,
}


def sentence(error: BaseException) -> str:
    """The message, checked to be one short printable sentence."""
    text = str(error)
    assert text.isprintable()
    assert text.endswith((".", "?"))
    assert len(text) < 1500
    return text


@pytest.mark.parametrize("kind", HOSTILE_JSON)
def test_json_documents(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_PLAN_CONFIG_DIR", str(tmp_path))
    content = HOSTILE_JSON[kind].encode("utf-8", "surrogateescape")
    path = tmp_path / "file.json"
    path.write_bytes(content)
    hosts_dir().mkdir()
    (hosts_dir() / "here.json").write_bytes(content)
    (tmp_path / "manifest.json").write_bytes(content)
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    readers: list[Any] = [
        lambda: read_plan(path),
        lambda: load_host("here"),
        lambda: open_bundle(tmp_path),
        lambda: read_hf_config(tmp_path),
        lambda: read_decoder_config(tmp_path),
        lambda: list_shards(tmp_path, "model.safetensors", "model.safetensors.index.json"),
    ]
    if kind not in ("digits",):  # a setting that concerns nobody
        readers.append(lambda: TokenizerSettings.of_checkpoint(tmp_path))
    for read in readers:
        with pytest.raises(GlmPlanError) as caught:
            read()
        sentence(caught.value)


@pytest.mark.parametrize("size", [10**12, 10**30, -1, 0, 1.5, True, "4096", None, [4096]])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_absurd_geometry(key: str, size: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {key: size}))
    with pytest.raises(UserInputError, match=key) as caught:
        read_hf_config(tmp_path)
    sentence(caught.value)
    with pytest.raises(UserInputError, match=key):
        read_decoder_config(tmp_path)
    bundle = tmp_path / "bundle"
    manifest = write_bundle(bundle)
    manifest["geometry"]["hidden_size"] = size
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError) as refused:
        open_bundle(bundle)
    sentence(refused.value)


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "a/../../b", "..", "C:\\b", "a\0b", "a\x1b[2Jb", "界" * 200, "."],
)
def test_names_that_lead_out_of_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    bundle = tmp_path / "bundle"
    manifest = write_bundle(bundle)
    manifest["tokenizer"]["file"]["path"] = name
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    sentence(caught.value)
    index = {"weight_map": {"a": name}}
    (bundle / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as refused:
        list_shards(bundle, "model.safetensors", "model.safetensors.index.json")
    sentence(refused.value)


def test_links_that_lead_out_of_a_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(bundle)
    target = bundle / "tokenizer" / "ice_text.model"
    (tmp_path / "outside").write_bytes(target.read_bytes())
    target.unlink()
    target.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle)
    target.unlink()
    target.symlink_to(target.name)  # to itself
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    sentence(caught.value)
    target.unlink()
    target.parent.rmdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "ice_text.model").write_bytes(b"t")
    target.parent.symlink_to(tmp_path / "folder")
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle)


def test_files_far_too_large(tmp_path: Path) -> None:
    """Sparse files: whoever reads more than the bound would take minutes and all memory."""
    for name in ("manifest.json", "config.json", "plan.json", "tokenizer_config.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
    for read in (
        lambda: open_bundle(tmp_path),
        lambda: read_hf_config(tmp_path),
        lambda: read_decoder_config(tmp_path),
        lambda: read_plan(tmp_path / "plan.json"),
        lambda: TokenizerSettings.of_checkpoint(tmp_path),
    ):
        with pytest.raises(GlmPlanError, match=r"larger|over"):
            read()


def test_a_sentencepiece_model_with_texts_that_are_none(tmp_path: Path) -> None:
    """The package quotes such a text in its own error, which then is no text either."""
    from sentencepiece import sentencepiece_model_pb2

    content = (TINY_CHECKPOINT / "ice_text.model").read_bytes()
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(content)
    for text in ("@@@@1", "@@@@2"):
        model.pieces.add(piece=text, score=0.0)
    twice = re.sub(rb"@@@@[12]", b"\xff\xfe\xff\xfe\xff", model.SerializeToString())
    path = tmp_path / "ice_text.model"
    tokens = open_bundle(TINY_BUNDLE).manifest.tokens
    assert tokens is not None
    for damage in (twice, content[:1000], b"", b"\xff" * 5000):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError) as caught:
            Tokenizer(path, tokens)
        sentence(caught.value)


def test_a_sentencepiece_model_with_one_piece_that_is_no_text(tmp_path: Path) -> None:
    content = (TINY_CHECKPOINT / "ice_text.model").read_bytes()
    tokens = open_bundle(TINY_BUNDLE).manifest.tokens
    assert tokens is not None
    path = tmp_path / "ice_text.model"
    for piece in (b"<eop>", b"Paris"):
        path.write_bytes(content.replace(piece, b"\xbc" * len(piece), 1))
        tokenizer = Tokenizer(path, tokens)
        ids = range(1024)
        assert tokenizer.decode(ids)
        assert tokenizer.encode("a\nb")
    path.write_bytes(content.replace(b"<n>", b"<N>", 1))
    with pytest.raises(CheckpointError, match="has no piece"):
        Tokenizer(path, tokens)


@pytest.mark.parametrize(
    "text", ["\0\x01\x1b[2J\r\n\x7f", "\u202e\u2066\ufeff", "\ud800", "\ufdd0"]
)
def test_control_characters_in_prompts_are_text(text: str) -> None:
    chat_format = chat_format_of(open_bundle(TINY_BUNDLE))
    ids = chat_format.prompt_ids([{"role": "user", "content": f"a{text}b"}])
    vocabulary = open_bundle(TINY_BUNDLE).manifest.geometry.vocab_size
    assert all(0 <= one < vocabulary for one in ids)
    stream = chat_format.answer_stream()
    "".join(map(stream.push, ids)).encode()


def test_stdin_that_is_not_utf8_is_answered() -> None:
    words = [sys.executable, "-m", "runtime.cli"]
    run = subprocess.run(
        [*words, "run", "--max-tokens", "2", "-"],
        input=b"\xff\xfe\x00 1+1=? \xc3",
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (run.returncode, b"Traceback" in run.stderr) == (0, False), run.stderr
    chat = subprocess.run(
        [*words, "chat", "--max-tokens", "2"],
        input=b"\xff\xfe 1+1=?\n\x1b[A\n/quit\n",
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (chat.returncode, b"Traceback" in chat.stderr) == (0, False), chat.stderr


@pytest.mark.parametrize("words", [["bundle", "inspect"], ["export"]])
def test_a_path_longer_than_names_may_be(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, 5000 * "x"])
    assert end.value.code == 2
    assert "is longer than a name may be here." in capsys.readouterr().err


def test_an_endless_prompt_is_refused() -> None:
    with Path("/dev/zero").open("rb") as endless:
        run = subprocess.run(
            [sys.executable, "-m", "runtime.cli", "run"],
            stdin=endless,
            capture_output=True,
            check=False,
            timeout=120,
        )
    assert run.returncode == 2
    assert b"the prompt is over 16 MiB" in run.stderr


@pytest.mark.parametrize(
    "content",
    ["a = 1\n" * 40_000, "a." * 800 + "b = 1", "x = " + "[" * 5000, "a = 1\na = 2", "\xff"],
)
def test_a_servers_configuration(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serve.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--config", str(tmp_path / "serve.toml")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("glm-plan: --config ")
    assert said.count("\n") == 1


def test_messages_cannot_steer_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"schema": "\x1b]0;owned\x07\u202e"}))
    for words in (
        ["run", "--plan", str(tmp_path / "plan.json"), "hello"],
        ["plan", "--model", "\x1b[2J\r"],
        ["plan", "\x1b[31mred"],
        ["bundle", "show", str(tmp_path / "\x1b[2J")],
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert capsys.readouterr().err.rstrip("\n").isprintable()
    assert sentence(PlanError("a\nb\x1b\ud800.")) == "a\\nb\\x1b\\ud800."
