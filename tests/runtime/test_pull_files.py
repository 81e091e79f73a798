"""Which files of a repository are fetched: listings as published ones have, and odd ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.model_store import RemoteFile
from runtime.pull_files import choose_files
from scheduler.errors import CheckpointError, GlmPlanError


def listing(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path=path, size_bytes=100 + n) for n, path in enumerate(paths)]


def words(text: str) -> list[str]:
    return text.split()


def chosen(*paths: str, file: tuple[str, ...] = ()) -> set[str]:
    return {one.path for one in choose_files("a/b", listing(*paths), file)}


QWEN = words(
    ".gitattributes LICENSE README.md config.json generation_config.json merges.txt"
    " model.safetensors tokenizer.json tokenizer_config.json vocab.json"
)
MISTRAL = words(
    ".gitattributes README.md config.json consolidated.safetensors generation_config.json"
    " model-00001-of-00003.safetensors model-00002-of-00003.safetensors"
    " model-00003-of-00003.safetensors model.safetensors.index.json params.json"
    " special_tokens_map.json tokenizer.json tokenizer.model tokenizer.model.v3"
    " tokenizer_config.json"
)
CHATGLM = words(
    ".gitattributes LICENSE MODEL_LICENSE README.md config.json configuration_chatglm.py"
    " ice_text.model modeling_chatglm.py pytorch_model-00001-of-00002.bin"
    " pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json quantization.py"
    " test_modeling_chatglm.py tokenization_chatglm.py tokenizer_config.json"
)
LLAMA = words(
    "LICENSE USE_POLICY.md config.json model.safetensors original/consolidated.00.pth"
    " original/tokenizer.model pytorch_model.bin tokenizer.json onnx/model.onnx"
)
GGUF = words("README.md m-Q4_K_M.gguf m-Q8_0.gguf m-F16.gguf mmproj-m-F16.gguf")


SPLIT = [f"m-{kind}-{number:05}-of-00002.gguf" for kind in ("Q4_K_M", "Q8_0") for number in (1, 2)]


def test_one_file_of_safetensors() -> None:
    assert chosen(*QWEN) == set(QWEN) - {".gitattributes", "README.md"}


def test_shards_without_the_second_copy_of_the_weights() -> None:
    left_out = {".gitattributes", "README.md", "consolidated.safetensors", "params.json"}
    assert chosen(*MISTRAL) == set(MISTRAL) - left_out - {"tokenizer.model.v3"}


def test_pytorch_files_where_there_are_no_safetensors_and_no_code() -> None:
    got = chosen(*CHATGLM)
    assert not [path for path in got if path.endswith(".py")]
    assert got == {path for path in CHATGLM if not path.endswith((".py", ".md", ".gitattributes"))}


def test_safetensors_win_over_pytorch_and_other_forms() -> None:
    assert chosen(*LLAMA) == {
        "LICENSE",
        "USE_POLICY.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_small_files_come_first() -> None:
    files = [
        RemoteFile(path="model.safetensors", size_bytes=9),
        RemoteFile(path="config.json", size_bytes=2),
        RemoteFile(path="tokenizer.json", size_bytes=5),
    ]
    paths = [one.path for one in choose_files("a/b", files)]
    assert paths == ["config.json", "tokenizer.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ((), "m-Q4_K_M.gguf"),
        (("Q8_0",), "m-Q8_0.gguf"),
        (("m-F16.gguf",), "m-F16.gguf"),
        (("*q8*",), "m-Q8_0.gguf"),
    ],
)
def test_one_gguf_by_name_pattern_or_habit(pattern: tuple[str, ...], expected: str) -> None:
    assert chosen(*GGUF, file=pattern) == {expected}


def test_all_parts_of_a_split_gguf() -> None:
    assert chosen(*SPLIT) == set(SPLIT[:2])
    assert chosen(*SPLIT, file=("q8_0",)) == set(SPLIT[2:])


@pytest.mark.parametrize(
    ("paths", "pattern", "sentence"),
    [
        (["README.md"], (), "a/b has no weights that glm-plan reads"),
        ([], (), "a/b has no weights"),
        (["model.safetensors"], (), "a/b has no config.json"),
        (["x-Q8_0.gguf", "x-F16.gguf"], (), "choose with --file: x-F16.gguf or x-Q8_0.gguf."),
        (GGUF, ("Q2_K",), "--file 'Q2_K' matches nothing in a/b; it has m-F16.gguf, "),
        (GGUF, ("*.gguf",), "--file matches 4 GGUF models of a/b"),
        (SPLIT, ("*00002.gguf",), "--file matches 2 GGUF models of a/b"),
        (SPLIT, ("m-Q8_0-00001*",), "m-Q8_0.gguf of a/b is in 2 files and 1 of them is chosen"),
        (["m-00002-of-00003.gguf", "m-00001-of-00003.gguf"], (), "3 files and 2 of them are"),
    ],
)
def test_what_cannot_be_chosen_is_a_sentence(
    paths: list[str], pattern: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(GlmPlanError) as caught:
        chosen(*paths, file=pattern)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["../config.json", "/etc/passwd", "a/../../b", "c:\\x", "a\\b", "new\nline", "", "x" * 300],
)
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with pytest.raises(CheckpointError, match="expected a path inside the repository"):
        choose_files("a/b", [*listing(*QWEN), RemoteFile(path=path, size_bytes=1)])


@given(
    st.lists(st.sampled_from([*QWEN, *MISTRAL, *CHATGLM, *LLAMA, *GGUF]), unique=True),
    st.lists(st.text(max_size=8), max_size=2),
)
def test_any_listing_gives_files_of_it_or_a_sentence(paths: list[str], patterns: list[str]) -> None:
    try:
        got = choose_files("a/b", listing(*paths), patterns)
    except GlmPlanError as error:
        message = str(error)
    else:
        message = ""
        require_sound(paths, patterns, got)
    assert "\n" not in message


def require_sound(paths: list[str], patterns: list[str], got: list[RemoteFile]) -> None:
    assert {one.path for one in got} <= set(paths)
    assert len({one.path for one in got}) == len(got)
    if not patterns:
        kinds = {one.path.rsplit(".", 1)[-1] for one in got} & {"safetensors", "bin", "gguf"}
        assert len(kinds) == 1
