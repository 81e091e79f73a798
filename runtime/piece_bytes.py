"""The bytes behind a token's text, by the decoder that a tokenizer.json names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.tokenizer import WORD_START
from runtime.tokenizer_document import steps_of

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
PieceBytes = Callable[[str], bytes]


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table).

    Bytes that print stand for themselves; the others take the letters from U+0100 on, in order.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {
        byte: chr(0x100 + index) for index, byte in enumerate(others)
    }


_BYTE_OF_LETTER = {letter: byte for byte, letter in byte_letters().items()}


@dataclass(frozen=True)
class PieceDecoder:
    """How pieces become bytes.

    ``strips_blank``: one blank at the very start of a decoded text is not part of it.
    """

    bytes_of: PieceBytes
    strips_blank: bool


def piece_decoder(decoder: dict[str, Any] | None) -> PieceDecoder:
    """The decoder of a tokenizer.json.

    Known are ByteLevel, and SentencePiece's: its blank, bytes as <0xNN>, one blank stripped at the
    start. Raises ValueError whose text continues a sentence that starts with the path.
    """
    steps = [step for step in steps_of(decoder, "decoder") if step.get("type") != "Sequence"]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return PieceDecoder(_from_letters, strips_blank=False)
    replaces_blank = falls_back = strips = False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": piece}, "content": " "} if (
                piece == WORD_START
            ):
                replaces_blank = True
            case {"type": "ByteFallback"}:
                falls_back = True
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                strips = True
            case {"type": "Fuse"}:
                pass
            case _:
                raise ValueError(f"has a decoder that is unknown, {str(step)[:80]}")
    if not replaces_blank:
        raise ValueError("has no decoder for byte-level or SentencePiece tokens")
    return PieceDecoder(_from_words_or_bytes if falls_back else _from_words, strips_blank=strips)


def _from_letters(piece: str) -> bytes:
    try:
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece)
    except KeyError:  # an added token, written as itself
        return piece.encode()


def _from_words(piece: str) -> bytes:
    return piece.replace(WORD_START, " ").encode()


def _from_words_or_bytes(piece: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte.group(1), 16)]) if byte else _from_words(piece)
