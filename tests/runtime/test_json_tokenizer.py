"""tokenizer.json: ids and texts are the tokenizers package's, and typed markup stays text."""

from __future__ import annotations

import json
import re

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.json_tokenizer import GUARD, INSIDE, JsonTokenizer, TextStream
from runtime.pattern_check import pattern_problem
from runtime.tokenizer_document import read_tokenizer_document
from scheduler.errors import CheckpointError
from tests.support.json_tokenizer import KINDS, MARKUP, THINK, write_tokenizer_json


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """Ours, and the package's own over the same file."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer_json(path, request.param)
    return JsonTokenizer(path), tokenizers.Tokenizer.from_file(str(path))


TYPED = st.sampled_from([*MARKUP, THINK, "<|im_", "<|", "|>", "<<|im_end|>|im_end|>", "<0x41>"])
BLANKS = st.sampled_from(["\n", "\t", "\r\n", " ", "  ", " " * 9, "\0", "\u3000"])
WORDS = st.sampled_from(
    [
        "the capital",
        " Paris",
        "法国的首都",
        "𝄞",
        "é",
        "e\u0301",
        "😀👩‍👩‍👧",
        "12345",
        "don't",
        "x=[1]",
    ]
)
TEXTS = st.lists(TYPED | BLANKS | WORDS | st.text(max_size=6), max_size=10).map("".join)
CLEAN = TEXTS.filter(lambda text: not re.search(f"[\ud800-\udfff\u2581{GUARD}{INSIDE}]", text))


def swallows_blank(pair):
    """The package puts no blank before a first text that has one, and takes one away."""
    return '"prepend_scheme":"first"' in pair[1].to_str()


@settings(deadline=None)
@given(text=CLEAN)
def test_plain_text_encodes_as_the_package_does_without_its_special_tokens(pair, text):
    ours, theirs = pair
    theirs.encode_special_tokens = True
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@settings(deadline=None)
@given(text=CLEAN)
def test_rendered_text_encodes_as_the_package_does(pair, text):
    ours, theirs = pair
    theirs.encode_special_tokens = False
    assert ours.encode_markup(text) == theirs.encode(text, add_special_tokens=False).ids


@settings(deadline=None)
@given(text=TEXTS)
def test_typed_markup_is_no_markup(pair, text):
    ours, _ = pair
    special = set(ours.markup.values())
    assert special
    assert not special & set(ours.encode(text))
    begin, end = (ours.markup[one] for one in MARKUP[:2])
    ids = ours.encode_markup(f"{MARKUP[0]}{ours.guard(text)}{MARKUP[1]}")
    assert (ids[0], ids[-1]) == (begin, end)
    assert not special & set(ids[1:-1])


@settings(deadline=None)
@given(text=CLEAN)
def test_guarded_text_has_the_ids_of_the_text_inside(pair, text):
    """Guarding changes nothing where nothing looks like markup, and the text in no case."""
    ours, _ = pair
    if not any(one in text for one in MARKUP):
        rendered = f"{MARKUP[0]}{text}{MARKUP[1]}"
        assert ours.encode_markup(f"{MARKUP[0]}{ours.guard(text)}{MARKUP[1]}") == (
            ours.encode_markup(rendered)
        )
    decoded = ours.decode(ours.encode_markup(ours.guard(text)))
    assert decoded == (text.removeprefix(" ") if swallows_blank(pair) else text)


@settings(deadline=None)
@given(text=CLEAN)
def test_every_text_survives(pair, text):
    ours, _ = pair
    decoded = ours.decode(ours.encode(text))
    assert decoded == (text.removeprefix(" ") if swallows_blank(pair) else text)


@settings(deadline=None)
@given(text=CLEAN, ids=st.lists(st.integers(0, 600), max_size=12))
def test_decoding_is_that_of_the_package(pair, text, ids):
    """They differ only where bytes make no character: the package gives up their whole run."""
    ours, theirs = pair
    ids = ids[:6] + ours.encode(text) + ids[6:]
    expected = theirs.decode(ids, skip_special_tokens=True)
    found = ours.decode(ids)
    if "\ufffd" not in expected or theirs.to_str().find("ByteFallback") < 0:
        assert found == expected
    else:
        assert "\ufffd" in found


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 600), max_size=30), text=TEXTS)
def test_streamed_text_is_the_whole_without_half_characters(pair, ids, text):
    ours, _ = pair
    ids = ids + ours.encode(text)
    stream = TextStream(ours)
    pieces = [stream.push(token) for token in ids]
    whole = "".join(pieces) + stream.finish()
    assert whole == ours.decode(ids)
    whole.encode()  # no lone surrogate


def test_a_character_in_bytes_is_printed_when_it_is_whole(pair):
    ours, _ = pair
    ids = ours.encode("𝄞")[-4:]
    stream = TextStream(ours)
    assert [stream.push(token) for token in ids][:3] == ["", "", ""]
    assert stream.finish() == ""


def test_a_continued_text_keeps_its_first_blank(pair):
    ours, _ = pair
    ids = ours.encode("a the")[1:]
    first = next(place for place, token in enumerate(ids) if ours.token_bytes(token)[:1] == b" ")
    stream = TextStream(ours, continues=True)
    assert "".join(map(stream.push, ids[first:])).startswith(" ")


def test_control_ids_become_markup(tmp_path):
    path = tmp_path / "tokenizer.json"
    write_tokenizer_json(path, KINDS[0])
    plain = JsonTokenizer(path)
    think = plain.encode(THINK)
    assert plain.decode(think) == THINK
    assert len(think) == 1
    strict = JsonTokenizer(path, frozenset(think))
    assert strict.decode(think) == ""
    assert strict.encode(THINK) != think
    assert strict.decode(strict.encode(THINK)) == THINK
    letter = plain.encode("z")
    assert JsonTokenizer(path, frozenset(letter)).markup["z"] == letter[0]


LETTERS = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def split(pattern):
    return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}}}


def nested(levels):
    step = {"type": "NFC"}
    for _ in range(levels):
        step = {"type": "Sequence", "normalizers": [step]}
    return {"normalizer": step}


HOSTILE = {
    "not JSON": b"nothing",
    "empty": b"",
    "no object": b"[]",
    "nothing in it": b"{}",
    "deep": b'{"a":' * 100_000,
    "deep lists": b"[" * 5_000_000,
    "repeated": b'{"model": 1, "model": 2}',
    "not finite": b'{"model": NaN}',
    "no vocabulary": {"model": {"type": "BPE", "merges": []}},
    "other model": {"model": {"type": "Unigram", "vocab": []}},
    "number": {"model": LETTERS | {"vocab": {"a": -1}}},
    "large number": {"model": LETTERS | {"vocab": {"a": 4_000_000_000}}},
    "number that is none": {"model": LETTERS | {"vocab": {"a": "x"}}},
    "true for a number": {"model": LETTERS | {"vocab": {"a": True}}},
    "merge of nothing": {"model": LETTERS | {"merges": ["a c"]}},
    "added": {"added_tokens": 1},
    "added without id": {"added_tokens": [{"content": "x"}]},
    "added without text": {"added_tokens": [{"id": 1, "content": ""}]},
    "nested normalizers": nested(40),
    "unknown normalizer": {"normalizer": {"type": "Script"}},
    "normalizer with a list as its type": {"normalizer": {"type": []}},
    "growing normalizer": {"normalizer": {"type": "Prepend", "prepend": "x" * 10_000}},
    "empty pattern": {
        "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"},
    },
    "bomb": split("(a+)+$"),
    "bomb of alternatives": split("(?:a|aa)*b"),
    "long pattern": split("a" * 100_000),
    "no pattern": split("(a"),
    "unknown decoder": {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
    "no decoder": {"decoder": None},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, name):
    path, content = tmp_path / "tokenizer.json", HOSTILE[name]
    if isinstance(content, dict):
        content = json.dumps({"model": LETTERS, "decoder": BYTE_LEVEL} | content).encode()
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json .*expected the tokenizer\.json"
    ) as e:
        JsonTokenizer(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600


def test_a_missing_and_a_huge_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        JsonTokenizer(tmp_path / "tokenizer.json")
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="is larger than"):
        read_tokenizer_document(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+",
        r"(a*)*b",
        r"(?:a|a)*",
        r"(a?){40,}",
        r"((ab)+c)*",
        r"(x[ab]+){1,100}",
        r"(a+)\1",
        r"\g<0>",
        r"a)",
        r"(a",
    ],
)
def test_patterns_that_explode_are_named(pattern):
    assert pattern_problem(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}",
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|\s{512}(?!\S)",
        r"[一-龥぀-ゟ゠-ヿ]+",
        " {2,}",
    ],
)
def test_patterns_of_published_models_pass(pattern):
    assert pattern_problem(pattern) is None
