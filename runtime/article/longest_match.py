"""Text to ids and back with nothing but a list of tokens: the longest one that fits, each time."""

from __future__ import annotations

import re
import unicodedata

from runtime.article.vocabulary import read_vocabulary
from runtime.bundle import Bundle
from runtime.manifest import SpecialTokens
from runtime.tokenizer import BLANK_PIECE, LONGEST_BLANK, NEWLINE, TAB, WORD_START
from scheduler.errors import UserInputError

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# What typed text must never become: markup stands for something else than its letters.
_MARKUP = re.compile(
    r"<\|[^|]*\|>|<0x[0-9A-F]{2}>|<n>|</?s>|<(sop|eop|eos|bos|pad|unk|unused_\d+|image_\d+)>"
    r"|\[[sg]?MASK\]"
)
_MARKUP_OF = {"\n": NEWLINE, "\t": TAB}
_SHOWN_CHARACTERS = 8


class LongestMatchTokenizer:
    """Encodes by longest match over `tokens` (by id), decodes by looking them up.

    A stand-in where the checkpoint's SentencePiece model is not at hand: it chooses pieces by
    length, not by score, so some words are cut elsewhere.
    """

    def __init__(self, tokens: tuple[str, ...], special: SpecialTokens) -> None:
        self.special = special
        self._tokens = tokens
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._special_ids = frozenset(special.model_dump().values())
        self._plain = {
            token: number
            for token, number in self._ids.items()
            if number not in self._special_ids and not _MARKUP.fullmatch(token)
        }
        self._longest = max(map(len, self._plain), default=0)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> LongestMatchTokenizer:
        """The tokenizer of an opened export, from its vocabulary."""
        manifest = bundle.manifest
        assert manifest.tokens is not None
        return cls(read_vocabulary(bundle.file(manifest.tokenizer.file)), manifest.tokens)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; markup in it, such as "<eop>" or "<n>", stays plain text.

        As ChatGLM's tokenizer does, it puts a blank before the text, and one token stands for a
        run of 2 to 80 blanks, for a newline and for a tab, where the vocabulary has such a token. A
        character without any token becomes its UTF-8 bytes if the vocabulary has tokens for those.
        Raises UserInputError naming the characters that are left.
        """
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates become "?"
        ids, at = self._word_start(text)
        unknown: dict[str, None] = {}
        while at < len(text):
            found, length = self._token_at(text, at)
            if not found:
                unknown[text[at]] = None
            ids += found
            at += length
        if unknown:
            raise UserInputError(_unknown_sentence(list(unknown)))
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that one token stands for: none, part of a character, or a whole text."""
        piece = self._tokens[token] if 0 <= token < len(self._tokens) else ""
        if token in self._special_ids:
            return b""
        if piece in (NEWLINE, TAB):
            return b"\n" if piece == NEWLINE else b"\t"
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte.group(1), 16)])
        if blanks := BLANK_PIECE.fullmatch(piece):
            return b" " * int(blanks.group(1))
        return b"" if _MARKUP.fullmatch(piece) else piece.replace(WORD_START, " ").encode()

    def _word_start(self, text: str) -> tuple[list[int], int]:
        """The token that takes the blank before the text, and how much of the text it takes."""
        if not text:
            return [], 0
        number, length = self._longest_plain(WORD_START + text[: self._longest])
        return ([], 0) if number is None else ([number], length - 1)

    def _token_at(self, text: str, at: int) -> tuple[list[int], int]:
        """Ids for what begins here and the characters they take; no ids: it can't be encoded."""
        character = text[at]
        window = text[at : at + max(self._longest, LONGEST_BLANK)]
        blanks = len(window) - len(window.lstrip(" "))
        for markup, length in (
            (f"<|blank_{min(blanks, LONGEST_BLANK)}|>", min(blanks, LONGEST_BLANK)),
            (_MARKUP_OF.get(character, ""), 1),
        ):
            if markup in self._ids:
                return [self._ids[markup]], length
        number, length = self._longest_plain(window)
        if number is not None:
            return [number], length
        by_byte = [self._ids.get(f"<0x{byte:02X}>") for byte in character.encode()]
        return [byte for byte in by_byte if byte is not None] if None not in by_byte else [], 1

    def _longest_plain(self, text: str) -> tuple[int | None, int]:
        window = text[: self._longest].replace(" ", WORD_START)
        for length in range(len(window), 0, -1):
            number = self._plain.get(window[:length])
            if number is not None:
                return number, length
        return None, 0


def _unknown_sentence(characters: list[str]) -> str:
    shown = ", ".join(map(_named, characters[:_SHOWN_CHARACTERS]))
    more = len(characters) - _SHOWN_CHARACTERS
    return (
        f"the vocabulary has no token for {shown}{f' and {more} more' if more > 0 else ''}; leave"
        f" {'it' if len(characters) == 1 else 'them'} out or write something else, since nothing"
        " is dropped silently."
    )


def _named(character: str) -> str:
    name = unicodedata.name(character, "")
    number = f"U+{ord(character):04X}"
    return f"{character!r} ({number}{f' {name}' if name else ''})"
