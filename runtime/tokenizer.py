"""ChatGLM's SentencePiece tokenizer: text to ids and back, and text that is safe to print early."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from runtime.answer_text import PostprocessStream
from runtime.bundle import Bundle
from runtime.manifest import SpecialTokens
from scheduler.errors import CheckpointError

NEWLINE, TAB = "<n>", "<|tab|>"
LONGEST_BLANK = 80
MAX_MODEL_BYTES = 32 << 20  # 256k pieces take about 4 MiB
_BLANKS = re.compile(rf" {{2,{LONGEST_BLANK}}}")
BLANK_PIECE = re.compile(r"<\|blank_(\d{1,2})\|>")
WORD_START = "\u2581"  # SentencePiece's sign for a blank
_UNKNOWN = " \u2047 "  # what SentencePiece prints for its piece <unk>


class TextCodec(Protocol):
    """What streaming and prompts need of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that one token stands for: none, part of a character, or a whole text."""


class Tokenizer:
    """Encodes and decodes with the checkpoint's own `ice_text.model`.

    `special` holds the ids that config.json names; `id_offset` is how far token ids lie above
    SentencePiece's piece ids (20000 in the first release, 0 after slimming). Raises CheckpointError
    when the file is not the SentencePiece model of a ChatGLM checkpoint.
    """

    def __init__(self, model_path: Path, special: SpecialTokens, id_offset: int = 0) -> None:
        self.special = special
        self._offset = id_offset
        self._pieces = _load(model_path)
        self._newline_piece = self._pieces.PieceToId(NEWLINE)
        unknown = self._pieces.IsUnknown(self._newline_piece)
        if unknown or self._newline_piece not in self._pieces.Encode(NEWLINE):
            raise CheckpointError(
                f"{model_path} has no piece {NEWLINE}, so it is not the tokenizer of a ChatGLM"
                " checkpoint; expected its ice_text.model, copy or export it again."
            )
        self._special_ids = frozenset(special.model_dump().values())
        markup = [self._piece(token) for token in self._special_ids] + [NEWLINE, TAB]
        patterns = [re.escape(text) for text in markup if len(text) > 1] + [BLANK_PIECE.pattern]
        self._markup = re.compile(f"(?={'|'.join(patterns)})")

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Tokenizer:
        """The tokenizer inside a bundle of ChatGLM."""
        manifest = bundle.manifest
        assert manifest.tokens is not None
        path = bundle.file(manifest.tokenizer.file)
        return cls(path, manifest.tokens, manifest.tokenizer.id_offset)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; markup in it, such as "<eop>" or "<n>", stays plain text."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates become "?"
        # Cut after the first character of every markup, so that no piece can match it whole.
        cuts = [found.start() + 1 for found in self._markup.finditer(text)]
        ids: list[int] = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            ids += self._encode_part(text[start:end], first=start == 0)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, before `postprocess`.

        Special tokens and ids without a piece print nothing; bytes that do not make a character
        become U+FFFD.
        """
        parts = list(map(self.token_bytes, ids))
        text = b"".join(parts).decode("utf-8", "replace")
        first = next((token for token, part in zip(ids, parts, strict=True) if part), None)
        # The blank that SentencePiece puts before every text is not part of it.
        begins_word = first is not None and self._piece(first).startswith(WORD_START)
        return text[1:] if begins_word else text

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that one token stands for: none, part of a character, or a whole text."""
        piece = self._piece(token)
        if not piece or token in self._special_ids or self._pieces.IsControl(token - self._offset):
            return b""
        if self._pieces.IsUnknown(token - self._offset):
            return _UNKNOWN.encode()
        if self._pieces.IsByte(token - self._offset):
            return bytes([int(piece[1:-1], 16)])
        if piece == NEWLINE:
            return b"\n"
        if piece == TAB:
            return b"\t"
        blanks = BLANK_PIECE.fullmatch(piece)
        text = " " * int(blanks.group(1)) if blanks else piece.replace(WORD_START, " ")
        return text.encode()

    def _encode_part(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        text = text.replace("\n", NEWLINE).replace("\t", TAB)
        text = _BLANKS.sub(lambda run: f"<|blank_{len(run.group())}|>", text)
        if first:
            return [piece + self._offset for piece in self._pieces.Encode(text)]
        # SentencePiece puts a blank before every text; behind a newline piece it does not.
        pieces = self._pieces.Encode(NEWLINE + text)
        # A damaged model may put the newline into a longer piece.
        start = pieces.index(self._newline_piece) + 1 if self._newline_piece in pieces else 0
        return [piece + self._offset for piece in pieces[start:]]

    def _piece(self, token: int) -> str:
        """The text of a token's piece, empty where SentencePiece has none that is text."""
        piece = token - self._offset
        if not 0 <= piece < self._pieces.GetPieceSize():
            return ""
        try:
            return str(self._pieces.IdToPiece(piece))
        except UnicodeDecodeError:
            return ""


class StreamDecoder:
    """Turns ids into text as they come; what was returned never has to be taken back.

    The texts returned by `push` and `finish` together are `postprocess(decode(all ids))`.
    """

    def __init__(self, tokenizer: TextCodec) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._answer = PostprocessStream()

    def push(self, token: int) -> str:
        """Add one id; return the text that has become certain, possibly empty."""
        return self._answer.push(self._utf8.decode(self._tokenizer.token_bytes(token)))

    def finish(self) -> str:
        """What was held back until now."""
        return self._answer.push(self._utf8.decode(b"", final=True)) + self._answer.finish()


def _load(model_path: Path) -> sentencepiece.SentencePieceProcessor:
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        if model_path.stat().st_size > MAX_MODEL_BYTES:
            raise RuntimeError
        pieces.Load(str(model_path))
    except (OSError, RuntimeError, ValueError):  # the package's own errors, and their texts
        raise CheckpointError(
            f"{model_path} is missing or no SentencePiece model; expected the tokenizer file of a"
            " ChatGLM checkpoint (ice_text.model), copy or export it again."
        ) from None
    return pieces
