"""The vocabulary inside a GGUF file becomes a tokenizer.json with the same ids."""

from __future__ import annotations

import json

import pytest
import sentencepiece
from hypothesis import given, settings

from runtime.export.gguf_vocabulary import gguf_vocabulary
from runtime.export.tokenizer_files import (
    gguf_tokenizer_for_bundle,
)
from runtime.json_tokenizer import JsonTokenizer
from runtime.piece_bytes import byte_letters
from scheduler.errors import CheckpointError
from tests.support.json_tokenizer import PLAIN_TEXTS, train_sentencepiece

BLANK = 417  # "▁" in every trained model


def gguf_metadata(**changes):
    """The keys of a byte-level vocabulary, as llama.cpp's converter writes them."""
    letters = byte_letters()
    tokens = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *(letters[byte] for byte in range(256)),
    ]
    types = [3, 3, 3] + [1] * 256
    merges = ["t h", "th e", "Ġ the"]
    tokens += ["th", "the", "Ġthe", "<think>"]
    types += [1, 1, 1, 4]
    metadata = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": types,
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def opened(metadata, folder):
    entry = gguf_tokenizer_for_bundle(metadata, folder / "m.gguf", folder)
    return entry, JsonTokenizer(folder / entry.file.path)


def test_a_gguf_vocabulary_becomes_a_tokenizer(tmp_path):
    metadata = gguf_metadata() | {"tokenizer.chat_template": "{{ messages[0].content }}"}
    entry, tokenizer = opened(metadata, tmp_path)
    assert (entry.bos, entry.eos, entry.add_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert (tmp_path / entry.chat_template.path).read_text() == "{{ messages[0].content }}"
    assert tokenizer.encode_markup("<|im_start|> the<think><|im_end|>") == [1, 261, 262, 2]
    assert tokenizer.decode(tokenizer.encode("<|im_end|>é 你")) == "<|im_end|>é 你"


@pytest.mark.parametrize(
    ("pre", "text", "parts"),
    [
        ("gpt-2", "a  123 b", ["a", " ", " 123", " b"]),
        ("smollm", "a  123 b", ["a", "  ", "1", "2", "3", " b"]),
        (
            "llama-bpe",
            "a  1234 DON'T\n\n b",
            ["a", " ", " ", "123", "4", " DON", "'T", "\n\n", " b"],
        ),
        ("qwen2", "a 12\n b", ["a", " ", "1", "2", "\n", " b"]),
        ("glm4", "你好1234(x)", ["你好", "123", "4", "(x", ")"]),
        ("tekken", "camelCase HTTP", ["camel", "Case", " HTTP"]),
    ],
)
def test_pre_tokenizers_cut_as_their_models_do(pre, text, parts):
    """Every cut becomes a token here, since the vocabulary holds it as a whole."""
    import tokenizers

    document = gguf_vocabulary(gguf_metadata(pre=pre)).document
    steps = tokenizers.Tokenizer.from_str(json.dumps(document)).pre_tokenizer
    bytes_of = {letter: byte for byte, letter in byte_letters().items()}
    found = [bytes(bytes_of[letter] for letter in part) for part, _ in steps.pre_tokenize_str(text)]
    assert [part.decode() for part in found] == parts


@settings(deadline=None, max_examples=200)
@given(text=PLAIN_TEXTS)
def test_a_sentencepiece_vocabulary_in_gguf_keeps_its_ids(gguf_pieces, text):
    tokenizer, pieces = gguf_pieces
    assert tokenizer.encode(text) == pieces.Encode(text)


@pytest.fixture(scope="module")
def gguf_pieces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    train_sentencepiece(folder / "tokenizer.model")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    count = pieces.GetPieceSize()
    kinds = [
        2 if pieces.IsUnknown(n) else 3 if pieces.IsControl(n) else 6 if pieces.IsByte(n) else 1
        for n in range(count)
    ]
    metadata = gguf_metadata(
        model="llama",
        pre=None,
        merges=None,
        tokens=[pieces.IdToPiece(number) for number in range(count)],
        scores=[pieces.GetScore(number) for number in range(count)],
        token_type=kinds,
    )
    entry, tokenizer = opened(metadata, folder)
    assert entry.add_bos
    return tokenizer, pieces


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "bert"}, "model 'bert'; understood are gpt2 and llama"),
        ({"model": None}, r"tokenizer\.ggml\.model is missing"),
        ({"pre": "new-one"}, "pre-tokenizer 'new-one' is unknown; understood are"),
        ({"tokens": []}, r"tokenizer\.ggml\.tokens is missing"),
        ({"tokens": [1, 2]}, r"tokenizer\.ggml\.tokens is missing or damaged"),
        ({"token_type": [1]}, "263 numbers, one per token"),
        ({"merges": ["ab"]}, "no pair"),
        ({"merges": ["t nothing"]}, "cannot be loaded"),
        ({"bos_token_id": 9999}, "a token below 263"),
        ({"add_bos_token": 1}, "true or false"),
        ({"model": "llama"}, "no scores"),
    ],
)
def test_damaged_gguf_vocabularies_are_refused(tmp_path, changes, reason):
    with pytest.raises(CheckpointError, match=reason) as refused:
        opened(gguf_metadata(**changes), tmp_path)
    assert "\n" not in str(refused.value)
