"""GGUF files through the exporter and the command line: encodings, what is said, and refusals."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.cli.bundle_view import stored_lines
from runtime.embedding import EmbeddingFile
from runtime.export.exporter import export_bundle
from runtime.export.gguf_source import GgufSource
from runtime.export.mnn_layers import quantised_layers, read_rows
from runtime.export.request import ExportRequest
from tests.support.gguf_files import CONFIGS, SMALL, random_weights, write_gguf

ATTENTION = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_qkv.weight", "attn_output")
MATRICES = (*ATTENTION, "ffn_gate", "ffn_up", "ffn_down")
# A vocabulary of 96 pieces: printable ASCII, a pair, a space as byte-level pairs write it, an end.
VOCABULARY = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*map(chr, range(33, 126)), "ab", "Ġ", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 95 + [3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 95,
    "tokenizer.chat_template": "{% for one in messages %}{{ one.content }}{% endfor %}",
}


def write(path, types=None, **options):
    """A small model; ``types`` of its matrices, by part of the name or for all of them."""
    named = dict.fromkeys(MATRICES, types) if isinstance(types, str) else types
    general = VOCABULARY | options.pop("general", {})
    return write_gguf(path, types=named, general=general, **options)


def encodings(manifest):
    return {
        (one.precision, one.weight_block)
        for part in manifest.parts
        for one in part.variants
        if part.name != "lm_head"
    }


@pytest.mark.parametrize(
    ("type_name", "encoding", "line"),
    [
        ("Q4_0", ("int4", 32), "mnn int4 block 32: 14 matrices of Q4_0 taken over without loss"),
        ("Q4_1", ("int4", 32), "mnn int4 block 32: 14 matrices of Q4_1 taken over without loss"),
        ("Q5_0", ("int8", 32), "mnn int8 block 32: 14 matrices of Q5_0 taken over without loss"),
        ("Q8_0", ("int8", 32), "mnn int8 block 32: 14 matrices of Q8_0 taken over without loss"),
        (
            "Q4_K",
            ("int4", 32),
            "mnn int4 block 32: 14 matrices of Q4_K taken over, scales rounded to fp16",
        ),
        ("Q6_K", ("int8", None), "mnn int8: 14 matrices of Q6_K requantised"),
        ("F16", ("fp16", None), None),
    ],
)
def test_a_file_is_exported_as_it_is_stored(type_name, encoding, line, tmp_path):
    write(tmp_path / "model.gguf", type_name)
    manifest = export_bundle(ExportRequest(tmp_path / "model.gguf", tmp_path / "b"))
    assert manifest.model == "model"
    assert encodings(manifest) == {encoding}
    assert stored_lines(manifest) == ([line] if line else [])
    assert manifest.end_ids == {95}
    assert open_bundle(tmp_path / "b", verify=True).manifest == manifest


def test_blocks_and_head_go_by_their_own_types(tmp_path):
    types = dict.fromkeys(MATRICES, "Q4_1") | {"token_embd": "Q8_0"}
    write(tmp_path / "m.gguf", types, architecture="qwen3")  # tied: the embedding is lm_head
    manifest = export_bundle(ExportRequest(tmp_path / "m.gguf", tmp_path / "b"))
    assert encodings(manifest) == {("int4", 32)}
    assert [(one.precision, one.weight_block) for one in manifest.parts[-1].variants] == [
        ("int8", 32)
    ]
    assert stored_lines(manifest) == [
        "mnn int4 block 32: 14 matrices of Q4_1 taken over without loss",
        "mnn int8 block 32: 1 matrix of Q8_0 taken over without loss",
    ]


def test_a_head_is_never_less_exact_than_the_blocks(tmp_path):
    types = dict.fromkeys(MATRICES, "Q8_0") | {"token_embd": "Q4_1"}
    write(tmp_path / "m.gguf", types, architecture="qwen3")
    manifest = export_bundle(ExportRequest(tmp_path / "m.gguf", tmp_path / "b"))
    assert [(one.precision, one.weight_block) for one in manifest.parts[-1].variants] == [
        ("int8", 32)
    ]
    assert stored_lines(manifest) == [
        "mnn int8 block 32: 1 matrix of Q4_1 taken over without loss;"
        " 14 matrices of Q8_0 taken over without loss"
    ]


def test_a_mixture_says_what_became_of_each_type(tmp_path):
    types = dict.fromkeys(MATRICES, "Q4_K") | {"attn_v.weight": "Q6_K", "ffn_down": "Q6_K"}
    write(tmp_path / "m.gguf", types)
    request = ExportRequest(tmp_path / "m.gguf", tmp_path / "b", head_precisions=("int8",))
    assert stored_lines(export_bundle(request))[0] == (
        "mnn int4 block 32: 4 matrices of Q6_K requantised;"
        " 10 matrices of Q4_K taken over, scales rounded to fp16"
    )


def test_other_precisions_are_had_by_asking(tmp_path):
    write(tmp_path / "m.gguf", "Q4_1")
    request = ExportRequest(tmp_path / "m.gguf", tmp_path / "b", ("fp32", "int8", "int4"))
    manifest = export_bundle(replace(request, head_precisions=("fp32",)))
    assert encodings(manifest) == {("fp32", None), ("int8", 32), ("int4", 32)}
    assert stored_lines(manifest) == [
        "mnn int8 block 32: 14 matrices of Q4_1 taken over without loss",
        "mnn int4 block 32: 14 matrices of Q4_1 taken over without loss",
    ]
    source = GgufSource(tmp_path / "m.gguf")
    for precision in ("int8", "int4"):
        path = tmp_path / "b" / f"mnn-{precision}-block32" / "block_01.mnn"
        layer = quantised_layers(path)["down"]
        found = read_rows(path.with_name("block_01.mnn.weight"), layer, 0, layer.rows)
        np.testing.assert_array_equal(found.values(), source.tensor("blocks.1.down.weight"))


def test_another_weight_block_requantises(tmp_path):
    write(tmp_path / "m.gguf", "Q4_1")
    request = ExportRequest(tmp_path / "m.gguf", tmp_path / "b", ("int4",), weight_block=64)
    assert "; 14 matrices of Q4_1 requantised" in stored_lines(export_bundle(request))[0]


def test_the_embedding_is_kept_exactly(tmp_path):
    for type_name, dtype in {"Q8_0": "fp32", "F16": "fp16", "BF16": "bf16"}.items():
        write(tmp_path / "m.gguf", {"token_embd": type_name})
        out = tmp_path / type_name
        manifest = export_bundle(ExportRequest(tmp_path / "m.gguf", out, ("fp32",)))
        file = out / manifest.embedding.file.path
        rows = EmbeddingFile(file, 96, 256, dtype)
        expected = GgufSource(tmp_path / "m.gguf").tensor("embedding.weight")
        np.testing.assert_array_equal(rows.lookup(range(96)), expected)
        assert manifest.embedding.dtype == dtype


def test_an_interrupted_takeover_resumes_to_the_same_bytes(tmp_path):
    write(tmp_path / "m.gguf", "Q4_1")
    whole = export_bundle(ExportRequest(tmp_path / "m.gguf", tmp_path / "a"))
    again = export_bundle(ExportRequest(tmp_path / "m.gguf", tmp_path / "b", resume=True))
    assert [one.variants for one in whole.parts] == [one.variants for one in again.parts]


def run_command(*arguments):
    command = [sys.executable, "-m", "runtime.cli", "export", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_the_command_exports_a_file_and_says_what_happened(tmp_path):
    write(tmp_path / "m.gguf", "Q8_0")
    result = run_command(tmp_path / "m.gguf", "--out", tmp_path / "b")
    assert result.returncode == 0, result.stderr
    assert "mnn int8 block 32: 14 matrices of Q8_0 taken over without loss" in result.stdout


@pytest.mark.parametrize("harm", ["cut", "letters", "architecture", "missing", "vocabulary"])
def test_the_command_refuses_with_one_sentence_and_exit_code_2(harm, tmp_path):
    path = tmp_path / "m.gguf"
    write(path, "Q8_0")
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "letters":
        path.write_bytes(b"nonsense" * 100)
    elif harm == "architecture":
        write(path, "Q8_0", general={"general.architecture": "mamba"})
    elif harm == "missing":
        path.unlink()
    else:
        write(path, "Q8_0", general={"tokenizer.ggml.model": "wordpiece"})
    result = run_command(path, "--out", tmp_path / "b")
    assert result.returncode == 2
    assert result.stderr.count("\n") <= 2  # the sentence, and where finished parts are kept
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "b").exists()


def test_every_architecture_is_exported(tmp_path):
    for architecture, config in CONFIGS.items():
        weights = random_weights(config)
        write(tmp_path / "m.gguf", "Q8_0", architecture=architecture, weights=weights)
        request = ExportRequest(tmp_path / "m.gguf", tmp_path / architecture)
        manifest = export_bundle(request)
        assert manifest.geometry.family == config.family
        assert manifest.geometry.heads == SMALL.heads
