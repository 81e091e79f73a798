"""Text to ids and back by a tokenizer.json, with typed markup kept apart from a template's own."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers

from runtime.bundle import Bundle
from runtime.piece_bytes import piece_decoder
from runtime.tokenizer_document import added_tokens, read_tokenizer_document
from scheduler.errors import CheckpointError, UserInputError

# Noncharacters of Unicode, which no text may hold: GUARD breaks markup that somebody typed until
# it is tokenized as text; INSIDE stands for "something came before this part".
GUARD, INSIDE = "\ufdd0", "\ufdd1"
_PLAIN_FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
_REPLACED = str.maketrans(dict.fromkeys((GUARD, INSIDE), "\ufffd"))


class JsonTokenizer:
    """A Hugging Face `tokenizer.json`, run by the `tokenizers` package.

    Tokens that the file marks as special, and those numbered in ``control_ids``, are markup: they
    come from templates only and print nothing. Raises CheckpointError for a file that is missing,
    hostile, or of a kind that is not byte-pair encoding.
    """

    def __init__(self, path: Path, control_ids: frozenset[int] = frozenset()) -> None:
        document = read_tokenizer_document(path)
        self.markup = _make_special(document, control_ids)
        try:
            decoder = piece_decoder(document.get("decoder"))
            self._tokenizer = _load(document)
        except ValueError as error:
            raise CheckpointError(
                f"{path} {error}; expected the tokenizer.json of a published model."
            ) from None
        self._strips_blank = decoder.strips_blank
        self._bytes = {
            number: b"" if piece in self.markup else decoder.bytes_of(piece)
            for piece, number in self._tokenizer.get_vocab(with_added_tokens=True).items()
        }
        self._tokenizer.add_tokens([tokenizers.AddedToken(INSIDE, normalized=False)])
        self._tokenizer.encode_special_tokens = True
        special = sorted(added_tokens(document), key=lambda token: -len(token["content"]))
        special = [token for token in special if token["special"]]
        self._split = re.compile("|".join(map(_split_pattern, special)) or "(?!)")
        typed = "|".join(re.escape(token["content"]) for token in special)
        self._typed = re.compile(f"(?={typed or '(?!)'})")

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> JsonTokenizer:
        """The tokenizer inside a bundle."""
        manifest = bundle.manifest
        return cls(bundle.file(manifest.tokenizer.file), frozenset(manifest.end_ids))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; markup in it, such as "<|im_end|>", stays plain text."""
        return self._encode_part(_clean(text), first=True)

    def encode_markup(self, text: str) -> list[int]:
        """Token ids of a rendered template: markup becomes special tokens, unless `guard`ed."""
        ids: list[int] = []
        at = 0
        for found in self._split.finditer(text):
            ids += self._encode_part(text[at : found.start()].replace(GUARD, ""), first=not at)
            matched = found.group()
            ids.append(self.markup[matched if matched in self.markup else matched.strip()])
            at = found.end()
        return ids + self._encode_part(text[at:].replace(GUARD, ""), first=not at)

    def guard(self, text: str) -> str:
        """Typed text made safe for a template: `encode_markup` takes its markup as plain text."""
        text = _clean(text)
        cuts = [0, *(found.start() + 1 for found in self._typed.finditer(text)), len(text)]
        return GUARD.join(text[a:b] for a, b in pairwise(cuts))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; markup prints nothing, broken characters become U+FFFD."""
        stream = TextStream(self)
        return "".join(map(stream.push, ids)) + stream.finish()

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that one token stands for: none, part of a character, or a whole text."""
        return self._bytes.get(token, b"")

    def first_token_bytes(self, token: int) -> bytes:
        """The same for the first token of a text that prints something."""
        return self.token_bytes(token).removeprefix(b" " if self._strips_blank else b"")

    def _encode_part(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        with _panics_as(UserInputError):
            if first:
                return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
            return list(self._tokenizer.encode(INSIDE + text, add_special_tokens=False).ids[1:])


class TextStream:
    """Turns ids into text as they come; no half character is returned.

    The texts returned by `push` and `finish` together are `decode` of all ids. With ``continues``
    they follow another text, so a blank before them belongs to them.
    """

    def __init__(self, tokenizer: JsonTokenizer, *, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._began = continues

    def push(self, token: int) -> str:
        """Add one id; return the text that has become certain, possibly empty."""
        content = self._tokenizer.token_bytes(token)
        if content and not self._began:
            self._began = True
            content = self._tokenizer.first_token_bytes(token)
        return self._utf8.decode(content)

    def finish(self) -> str:
        """What was held back until now: U+FFFD for a character that never became whole."""
        return self._utf8.decode(b"", final=True)


def _make_special(document: dict[str, Any], control_ids: frozenset[int]) -> dict[str, int]:
    """Mark the control tokens as special, too; the ids of all special tokens by their text."""
    added = added_tokens(document)
    pieces = {number: piece for piece, number in document["model"]["vocab"].items()}
    named = {token["id"] for token in added}
    for number in sorted(control_ids - named):
        if number in pieces:
            added.append({"id": number, "content": pieces[number], **_PLAIN_FLAGS})
    for token in added:
        token["special"] = bool(token.get("special")) or token["id"] in control_ids
    document["added_tokens"] = added
    return {token["content"]: token["id"] for token in added if token["special"]}


def _split_pattern(token: dict[str, Any]) -> str:
    """A special token and the blanks that it swallows."""
    before, after = (r"\s*" if token.get(side) else "" for side in ("lstrip", "rstrip"))
    return f"{before}{re.escape(token['content'])}{after}"


def _load(document: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer without truncation, padding and the tokens that it would put around a text."""
    bare = document | {"truncation": None, "padding": None, "post_processor": None}
    with _panics_as(ValueError):
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(bare, ensure_ascii=False))
        except Exception as error:  # the package raises nothing more exact
            raise ValueError(f"cannot be loaded ({str(error).splitlines()[0][:200]})") from None


def _clean(text: str) -> str:
    """Text that can be UTF-8, with "?" for lone surrogates, and without our own marks."""
    return text.encode("utf-8", "replace").decode("utf-8").translate(_REPLACED)


@contextmanager
def _panics_as(error_type: type[Exception]) -> Iterator[None]:
    """Turn a panic of the package's native code, which is no Exception, into an error."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = str(error).partition("\n")[0][:200]
        raise error_type(f"the tokenizer gave up on this text ({reason})") from None
