"""A tokenizer.json made from parts: vocabulary, merges, and how text is cut before merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.tokenizer import WORD_START

# GPT-2's cut: contractions, then words, numbers and marks with the blank before them, then blanks.
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2_PATTERN = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"


def word_pattern(numbers: str) -> str:
    r"""The cut of Llama 3, Qwen2 and GLM-4, which differ in `numbers`, such as r"\p{N}{1,3}"."""
    return (
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True)
class AddedText:
    """A token that is matched before merging; only `special` ones are markup."""

    number: int
    text: str
    special: bool


def byte_level_document(
    vocabulary: Mapping[str, int],
    merges: Iterable[Sequence[str]],
    patterns: Sequence[str],
    added: Iterable[AddedText],
    *,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """Byte-level pair encoding: `patterns` cut the text one after the other, as GPT-2 began it.

    ``ignore_merges``: a cut text that is a token as a whole becomes that token.
    """
    cuts: list[dict[str, Any]] = [
        {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        for pattern in patterns
    ]
    letters = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return _document(
        {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": list(merges),
            "ignore_merges": ignore_merges,
        },
        added,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*cuts, letters]},
        decoder=letters,
    )


def sentencepiece_document(
    pieces: Sequence[str],
    scores: Sequence[float],
    mergeable: Sequence[bool],
    unknown: str | None,
    added: Iterable[AddedText],
    *,
    before: Sequence[dict[str, Any]] = (),
    blank_before: str = "every part",
) -> dict[str, Any]:
    """SentencePiece's pair encoding with bytes for unknown characters.

    ``before`` are normalizer steps; ``blank_before`` says where SentencePiece's blank is put:
    before "every part" between special tokens, before the "first" one only, or "never".
    """
    steps = list(before)
    pre_tokenizer = None
    if blank_before == "first":
        pre_tokenizer = {
            "type": "Metaspace",
            "replacement": WORD_START,
            "prepend_scheme": "first",
            "split": False,
        }
    else:
        if blank_before == "every part":
            steps.append({"type": "Prepend", "prepend": WORD_START})
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": WORD_START})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": WORD_START}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if blank_before != "never":
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    vocabulary: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        vocabulary.setdefault(piece, number)
    return _document(
        {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": merges_by_score(pieces, scores, mergeable),
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
        },
        added,
        normalizer={"type": "Sequence", "normalizers": steps} if steps else None,
        pre_tokenizer=pre_tokenizer,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def merges_by_score(
    pieces: Sequence[str], scores: Sequence[float], mergeable: Sequence[bool]
) -> list[tuple[str, str]]:
    """The merges that SentencePiece makes: two pieces whose text together is a piece, best first.

    SentencePiece keeps no list of merges; it joins the neighbours whose joint piece scores highest.
    """
    known = {piece for piece, usable in zip(pieces, mergeable, strict=True) if usable}
    order = sorted(range(len(pieces)), key=lambda number: (-scores[number], number))
    return [
        (pieces[number][:cut], pieces[number][cut:])
        for number in order
        if mergeable[number]
        for cut in range(1, len(pieces[number]))
        if pieces[number][:cut] in known and pieces[number][cut:] in known
    ]


def _document(
    model: dict[str, Any],
    added: Iterable[AddedText],
    *,
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
    decoder: dict[str, Any],
) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": one.number, "content": one.text, **flags, "special": one.special}
            for one in sorted(added, key=lambda one: one.number)
        ],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
