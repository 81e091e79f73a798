"""Longest match keeps every text or names what it cannot keep, and never writes control tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.article.longest_match import LongestMatchTokenizer
from runtime.manifest import SpecialTokens
from runtime.tokenizer import StreamDecoder
from scheduler.errors import UserInputError

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MARKUP = ["<n>", "<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81))]
CONTROL = ["<pad>", "[MASK]", "[gMASK]", "<sop>", "<eop>"]
WORDS = ["\u2581", "a", "b", "ab", "abc", "bc", "\u2581a", "你", "好", "你好", "好吗", *"<>[]npe"]
TOKENS = (*CONTROL, *MARKUP, *WORDS)
SPECIAL = SpecialTokens(pad=0, mask=1, gmask=2, bos=3, eos=4)

PLAIN = LongestMatchTokenizer(TOKENS, SPECIAL)
WITH_BYTES = LongestMatchTokenizer((*TOKENS, *BYTES), SPECIAL)

TEXTS = st.lists(
    st.sampled_from([*WORDS[1:6], *WORDS[7:], *CONTROL, *MARKUP[:3], "\n", "\t", " ", " " * 81])
    | st.text(max_size=4),
    max_size=8,
).map("".join)


def pieces(text: str) -> list[str]:
    return [TOKENS[number] for number in PLAIN.encode(text)]


def decoded(tokenizer: LongestMatchTokenizer, ids: list[int]) -> str:
    return b"".join(map(tokenizer.token_bytes, ids)).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("abcb", ["\u2581a", "bc", "b"]),
        ("你好吗", None),  # 你好 is longest first, and 吗 alone is no token
        ("好吗 a", ["\u2581", "好吗", "\u2581a"]),
        ("b\n\t  a", ["\u2581", "b", "<n>", "<|tab|>", "<|blank_2|>", "a"]),
        (" a", ["\u2581", "\u2581a"]),
        (" " * 82, ["\u2581", "<|blank_80|>", "<|blank_2|>"]),
        ("<n>", ["\u2581", "<", "n", ">"]),
    ],
)
def test_the_longest_token_that_fits(text: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(UserInputError, match=r"'吗' \(U\+5417"):
            PLAIN.encode(text)
    else:
        assert pieces(text) == expected


@given(text=TEXTS.filter(lambda text: "\u2581" not in text))
def test_bytes_keep_every_text(text: str) -> None:
    ids = WITH_BYTES.encode(text)
    assert not set(ids) & set(range(len(CONTROL)))
    kept = text.encode("utf-8", "replace").decode()
    assert decoded(WITH_BYTES, ids) == (f" {kept}" if text else "")


@given(text=TEXTS)
def test_without_bytes_a_text_is_kept_or_refused(text: str) -> None:
    if set(text) - (set("".join(WORDS)) | set(" \n\t")):
        with pytest.raises(UserInputError, match=r"no token for .*U\+") as caught:
            PLAIN.encode(text)
        assert "\n" not in str(caught.value)
    elif "吗" not in text:  # which is part of a token, and none by itself
        ids = PLAIN.encode(text)
        assert decoded(PLAIN, ids) == (f" {text}" if text else "").replace("\u2581", " ")


def test_the_refusal_names_characters_once_and_says_how_many_are_left() -> None:
    with pytest.raises(UserInputError) as caught:
        PLAIN.encode("xax" + "ABCDEFGHIJ")
    message = str(caught.value)
    assert message.count("U+0078") == 1
    assert "and 3 more" in message


def test_streams_characters_that_are_bytes() -> None:
    stream = StreamDecoder(WITH_BYTES)
    ids = [*WITH_BYTES.encode("你é𝄞好"), SPECIAL.eos, len(TOKENS) + 999]
    text = "".join(map(stream.push, ids)) + stream.finish()
    assert text == "你é𝄞好"
