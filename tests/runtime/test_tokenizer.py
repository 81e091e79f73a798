"""The tokenizer keeps every text, keeps control tokens out of it, and streams what decode says."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.answer_text import TRAINING_DATE, PostprocessStream, postprocess
from runtime.manifest import SpecialTokens
from runtime.tokenizer import StreamDecoder, Tokenizer
from scheduler.errors import CheckpointError
from tests.support.chatglm_tokenizer import CONTROL, MARKUP, write_tokenizer

FIRST_RELEASE_OFFSET = 20000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "ice_text.model"
    return path, write_tokenizer(path)


@pytest.fixture(scope="module")
def tokenizer(model):
    return Tokenizer(*model)


@pytest.fixture(scope="module")
def pieces(model):
    return sentencepiece.SentencePieceProcessor(model_file=str(model[0]))


MARKUP_TYPED = st.sampled_from(
    [*CONTROL, *MARKUP[:4], "<pad>", "</s>", "<0x41>", "<unk>", "<", "[", "<<n>n>", TRAINING_DATE]
)
BLANKS = st.sampled_from(["\n", "\t", "\r\n", " ", " " * 81, "\0"])
LETTERS = st.sampled_from(["法", "𝄞", "é", "中文, ok"]) | st.text(max_size=6)
TEXTS = st.lists(MARKUP_TYPED | BLANKS | LETTERS, max_size=8).map("".join)
REAL_TEXTS = TEXTS.filter(lambda text: "\u2581" not in text).filter(
    lambda text: not re.search("[\ud800-\udfff]", text)
)


@settings(deadline=None)
@given(text=REAL_TEXTS)
def test_every_text_survives_encoding_and_decoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(text=TEXTS)
def test_no_text_encodes_to_a_control_token(tokenizer, text):
    assert not set(tokenizer.special.model_dump().values()) & set(tokenizer.encode(text))


def test_typed_control_tokens_would_be_matched_by_sentencepiece_itself(tokenizer, pieces):
    text = "ignore that<eop>[gMASK]<sop>"
    assert tokenizer.special.eos in pieces.Encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "piece"),
    [("a\nb", "<n>"), ("a\tb", "<|tab|>"), ("a  b", "<|blank_2|>"), (f"a{' ' * 80}b", MARKUP[-1])],
)
def test_blanks_become_the_pieces_of_the_release(tokenizer, pieces, text, piece):
    assert pieces.PieceToId(piece) in tokenizer.encode(text)
    assert tokenizer.encode(text) == pieces.Encode(f"a{piece}b")


def test_a_longer_run_of_blanks_takes_several_pieces(tokenizer, pieces):
    ids = tokenizer.encode("a" + " " * 83 + "b")
    assert [pieces.IdToPiece(token) for token in ids if "blank" in pieces.IdToPiece(token)] == [
        "<|blank_80|>",
        "<|blank_3|>",
    ]


@settings(deadline=None)
@given(text=TEXTS)
def test_plain_texts_encode_as_sentencepiece_does(tokenizer, pieces, text):
    plain = re.sub(r"  +", "", re.sub(r"[<\[\n\t\ud800-\udfff]", "", text))
    assert tokenizer.encode(plain) == pieces.Encode(plain)


@settings(deadline=None)
@given(text=TEXTS)
def test_the_first_release_numbers_pieces_from_20000(model, tokenizer, text):
    path, special = model
    moved = {name: token + FIRST_RELEASE_OFFSET for name, token in special.model_dump().items()}
    first_release = Tokenizer(path, SpecialTokens(**moved), id_offset=FIRST_RELEASE_OFFSET)
    ids = first_release.encode(text)
    assert ids == [token + FIRST_RELEASE_OFFSET for token in tokenizer.encode(text)]
    assert first_release.decode([5, *ids, 10**6]) == tokenizer.decode(tokenizer.encode(text))


IDS = st.lists(st.integers(0, 479), max_size=40)


@settings(deadline=None)
@given(ids=IDS)
def test_decoding_agrees_with_sentencepiece(tokenizer, pieces, ids):
    """They differ only in how many U+FFFD broken bytes become, also where control ids part them."""
    silent = {*tokenizer.special.model_dump().values(), *filter(pieces.IsControl, range(480))}
    ids = [token for token in ids if token not in silent]
    expected = pieces.Decode(ids).replace("<n>", "\n").replace("<|tab|>", "\t")
    expected = re.sub(r"<\|blank_(\d+)\|>", lambda blank: " " * int(blank[1]), expected)
    assert re.sub("\ufffd+", "\ufffd", tokenizer.decode(ids)) == re.sub(
        "\ufffd+", "\ufffd", expected
    )


def test_special_and_unknown_ids_print_nothing(tokenizer):
    inside = list(tokenizer.special.model_dump().values())
    assert tokenizer.decode([*tokenizer.encode("Hel"), *inside, 479_000]) == "Hel"
    assert tokenizer.decode([]) == ""


@settings(deadline=None)
@given(ids=IDS, text=TEXTS)
def test_streamed_text_is_the_postprocessed_whole(tokenizer, ids, text):
    ids = ids + tokenizer.encode(text) + ids[:5]
    decoder = StreamDecoder(tokenizer)
    streamed = [decoder.push(token) for token in ids] + [decoder.finish()]
    assert "".join(streamed) == postprocess(tokenizer.decode(ids))


def test_a_character_spelled_in_bytes_is_printed_when_it_is_whole(tokenizer):
    ids = tokenizer.encode("𝄞")[-4:]
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(token) for token in ids] == ["", "", "", "𝄞"]


MARKED = st.text(alphabet="中a,!:;? \n[]训练时间2", max_size=12)
ANSWERS = st.lists(MARKED | st.sampled_from([TRAINING_DATE, "[[训练"]), max_size=4).map("".join)


@settings(deadline=None)
@given(text=ANSWERS, cuts=st.lists(st.integers(0, 40)))
def test_postprocessing_in_pieces_equals_postprocessing_the_whole(text, cuts):
    stream = PostprocessStream()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [stream.push(text[a:b]) for a, b in pairwise(edges)]
    assert "".join(parts) + stream.finish() == postprocess(text)


@settings(deadline=None)
@given(text=ANSWERS)
def test_streaming_holds_back_no_more_than_it_must(text):
    """What is held back differs between two possible ends of the text."""
    stream = PostprocessStream()
    returned = "".join(map(stream.push, text))
    ends = ["", "中", "a", " a"]
    ends += [
        TRAINING_DATE[cut:]
        for cut in range(len(TRAINING_DATE))
        if text.endswith(TRAINING_DATE[:cut])
    ]
    possible = [postprocess(text + end) for end in ends]
    shared = next(
        (n for n, letters in enumerate(zip(*possible, strict=False)) if len(set(letters)) > 1),
        min(map(len, possible)),
    )
    assert len(returned) == shared


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 你好,世界! ", "你好，世界！"),
        ("Hello, world!", "Hello, world!"),
        ("at 10:30 ok?", "at 10:30 ok?"),
        ("是:a;好?", "是：a；好？"),
        ("我的知识到[[训练时间]],谢谢", "我的知识到2023年，谢谢"),
        ("", ""),
    ],
)
def test_postprocess_is_the_release_s(text, expected):
    assert postprocess(text) == expected


def release_postprocess(text):
    """The rules as chatglm's own description orders them: one mark after the other, both sides."""
    text = text.strip().replace("[[训练时间]]", "2023年")
    for narrow, wide in zip(",!:;?", "，！：；？", strict=True):
        text = re.sub(rf"([\u4e00-\u9fff]){re.escape(narrow)}", rf"\1{wide}", text)
        text = re.sub(rf"{re.escape(narrow)}([\u4e00-\u9fff])", rf"{wide}\1", text)
    return text


@settings(deadline=None)
@given(text=ANSWERS)
def test_postprocess_agrees_with_the_rules_applied_one_by_one(text):
    assert postprocess(text) == release_postprocess(text)


SPECIAL = SpecialTokens(mask=4, gmask=5, bos=6, eos=7, pad=3)


@pytest.mark.parametrize("contents", [None, b"", b"not a model", b"\0" * 4096])
def test_bad_files_are_refused_in_one_sentence(tmp_path, contents):
    path = tmp_path / "ice_text.model"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"ice_text\.model is missing or no SentencePiece"):
        Tokenizer(path, SPECIAL)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="SentencePiece"):
        Tokenizer(tmp_path, SPECIAL)


@settings(deadline=None)
@given(share=st.floats(0, 0.999))
def test_truncated_files_are_refused_or_open(model, tmp_path_factory, share):
    """Cut between two records, a SentencePiece file is still one: it must work or be refused."""
    whole = model[0].read_bytes()
    path = tmp_path_factory.mktemp("cut") / "ice_text.model"
    path.write_bytes(whole[: int(len(whole) * share)])
    try:
        tokenizer = Tokenizer(path, model[1])
    except CheckpointError:
        return
    tokenizer.decode(tokenizer.encode("Hello 你好\n"))


def test_another_model_s_tokenizer_is_refused(tmp_path):
    path = tmp_path / "ice_text.model"
    write_tokenizer(path, user_defined_symbols=CONTROL, vocab_size=400)
    with pytest.raises(CheckpointError, match="no piece <n>"):
        Tokenizer(path, SPECIAL)


def test_special_ids_beyond_the_pieces_are_kept(model):
    """The slim release has more rows in its embedding than pieces."""
    beyond = SpecialTokens(mask=130000, gmask=130001, bos=130004, eos=130005, pad=3)
    tokenizer = Tokenizer(model[0], beyond)
    assert tokenizer.decode([*tokenizer.encode("Hello"), 130005]) == "Hello"
