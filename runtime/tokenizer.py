"""ChatGLM's SentencePiece tokenizer: text to ids and back, and text that is safe to print early."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from runtime.bundle import Bundle
from runtime.manifest import SpecialTokens
from scheduler.errors import CheckpointError

NEWLINE, TAB = "<n>", "<|tab|>"
LONGEST_BLANK = 80
TRAINING_DATE = "[[训练时间]]"
_BLANKS = re.compile(rf" {{2,{LONGEST_BLANK}}}")
_BLANK_PIECE = re.compile(r"<\|blank_(\d{1,2})\|>")
_FULL_WIDTH = str.maketrans(",!:;?", "，！：；？")
_BESIDE_CHINESE = re.compile(r"(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")


class Tokenizer:
    """Encodes and decodes with the checkpoint's own `ice_text.model`.

    `id_offset` is how far token ids lie above SentencePiece's piece ids (20000 in the first
    release, 0 after slimming). Raises CheckpointError when the file is not a SentencePiece model.
    """

    def __init__(self, model_path: Path, special: SpecialTokens, id_offset: int = 0) -> None:
        self.special = special
        self._offset = id_offset
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.Load(str(model_path))
        except (OSError, RuntimeError):
            raise CheckpointError(
                f"{model_path} is missing or no SentencePiece model; expected the tokenizer file"
                " of a ChatGLM checkpoint (ice_text.model), copy or export it again."
            ) from None
        self._special_ids = frozenset(special.model_dump().values())
        texts = [re.escape(text) for text in map(self._special_text, self._special_ids) if text]
        self._special_texts = re.compile("|".join(texts) or r"(?!)")

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Tokenizer:
        """The tokenizer inside a bundle."""
        manifest = bundle.manifest
        path = bundle.file(manifest.tokenizer.file)
        return cls(path, manifest.tokens, manifest.tokenizer.id_offset)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; what looks like a special token in it stays text."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates become "?"
        text = text.replace("\n", NEWLINE).replace("\t", TAB)
        text = _BLANKS.sub(lambda run: f"<|blank_{len(run.group())}|>", text)
        ids: list[int] = []
        start = 0
        for special in self._special_texts.finditer(text):
            # Cut after its first character, so that no piece can be the special token itself.
            cut = special.start() + 1
            ids += self._encode_part(text[start:cut], first=start == 0)
            start = cut
        return ids + self._encode_part(text[start:], first=start == 0)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, before `postprocess`; special tokens and unknown ids print nothing."""
        size = self._pieces.GetPieceSize()
        pieces = [
            token - self._offset
            for token in ids
            if token not in self._special_ids and 0 <= token - self._offset < size
        ]
        text = str(self._pieces.Decode(pieces)) if pieces else ""
        text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
        return _BLANK_PIECE.sub(lambda blank: " " * int(blank.group(1)), text)

    def is_byte(self, token: int) -> bool:
        """Whether a token is one byte of a character that has no piece of its own."""
        piece = token - self._offset
        return 0 <= piece < self._pieces.GetPieceSize() and bool(self._pieces.IsByte(piece))

    def _encode_part(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        if first:
            return [piece + self._offset for piece in self._pieces.Encode(text)]
        # SentencePiece puts a blank before every text; behind a newline piece it does not.
        pieces = self._pieces.Encode(NEWLINE + text)
        start = pieces.index(self._pieces.PieceToId(NEWLINE)) + 1
        return [piece + self._offset for piece in pieces[start:]]

    def _special_text(self, token: int) -> str:
        piece = token - self._offset
        known = 0 <= piece < self._pieces.GetPieceSize()
        return str(self._pieces.IdToPiece(piece)) if known else ""


def postprocess(text: str) -> str:
    """The release's last touch on an answer: no outer blanks, full-width marks beside Chinese."""
    text = text.strip().replace(TRAINING_DATE, "2023年")
    return _BESIDE_CHINESE.sub(lambda mark: mark.group().translate(_FULL_WIDTH), text)


class StreamDecoder:
    """Turns ids into text as they come; what was returned never has to be taken back.

    The pieces returned by `push` and `finish` together are `postprocess(decode(all ids))`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._emitted = 0

    def push(self, token: int) -> str:
        """Add one id; return the text that has become certain, possibly empty."""
        self._ids.append(token)
        raw = self._tokenizer.decode(self._ids)
        if self._tokenizer.is_byte(token):
            raw = raw.rstrip("\ufffd")  # a character whose bytes are not all here yet
        return self._emit(postprocess(raw[: _certain(raw)]))

    def finish(self) -> str:
        """What was held back until now."""
        return self._emit(postprocess(self._tokenizer.decode(self._ids)))

    def _emit(self, text: str) -> str:
        new = text[self._emitted :]
        self._emitted += len(new)
        return new


def _certain(raw: str) -> int:
    """How much of an unfinished text no later token can change through `postprocess`."""
    end = len(raw.rstrip())  # outer blanks are stripped at the end, inner ones stay
    for length in range(min(len(TRAINING_DATE), end), 0, -1):
        if TRAINING_DATE.startswith(raw[end - length : end]):
            return end if length == len(TRAINING_DATE) else end - length
    if end and raw[end - 1] in ",!:;?":
        return end - 1
    return end
