"""Whether a tokenizer.json can be trusted to load and run: its size, its kinds, its patterns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.pattern_check import pattern_problem
from scheduler.errors import CheckpointError
from scheduler.strict_json import read_strict_json

MAX_TOKENIZER_BYTES = 64 << 20  # the largest published ones take about 35 MB
_MAX_DEPTH = 16
_MAX_INSERTED = 64  # characters that a normalizer may put in the place of one
_MAX_TOKENS = 1 << 20
_SEQUENCES = ("Sequence",)
_FORMS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "Precompiled")
_EDITS = ("Strip", "Replace", "Prepend")
_CUTS = ("ByteLevel", "Split", "Digits", "Metaspace", "Punctuation", "Whitespace")
_KNOWN = {
    "normalizer": frozenset((*_SEQUENCES, *_FORMS, *_EDITS)),
    "pre_tokenizer": frozenset((*_SEQUENCES, *_CUTS, "WhitespaceSplit")),
}


def read_tokenizer_document(path: Path) -> dict[str, Any]:
    """Parse and check a Hugging Face `tokenizer.json`.

    What it may hold: byte-pair encoding with numbered tokens, known normalizers and pre-tokenizers,
    and patterns whose search time is bounded. Raises CheckpointError in one sentence.
    """
    try:
        document = read_strict_json(path, MAX_TOKENIZER_BYTES)
        _check(document)
    except ValueError as error:
        raise CheckpointError(
            f"{path} {error}; expected the tokenizer.json of a published model, download or export"
            " it again."
        ) from None
    return document


def added_tokens(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The document's list of tokens that are matched before byte-pair encoding."""
    return document.get("added_tokens") or []


def _check(document: dict[str, Any]) -> None:
    model = document.get("model")
    if not isinstance(model, dict):
        raise ValueError("has no model")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ValueError(f"holds a model of type {_shown(kind)}, only BPE is understood")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("has no vocabulary")
    _check_ids("the vocabulary", vocabulary.values())
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
        raise ValueError("has added_tokens that are no list of objects")
    if not all(isinstance(one.get("content"), str) and one["content"] for one in added):
        raise ValueError("has an added token without a text")
    _check_ids("added_tokens", [one.get("id") for one in added])
    for part, known in _KNOWN.items():
        for step in steps_of(document.get(part), part):
            kind = step.get("type")
            if not isinstance(kind, str) or kind not in known:
                raise ValueError(f"uses the {part} {_shown(kind)}, which is unknown")
            _check_step(step, part)


def steps_of(component: Any, part: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """A component and everything inside its sequences, outer ones first."""
    if component is None:
        return
    if not isinstance(component, dict) or depth > _MAX_DEPTH:
        raise ValueError(f"has a {part} that is no object, or nested too deep")
    yield component
    for name in ("normalizers", "pretokenizers", "decoders"):
        inner = component.get(name, [])
        if not isinstance(inner, list):
            raise ValueError(f"has a {part} whose {name} are no list")
        for one in inner:
            yield from steps_of(one, part, depth + 1)


def _check_step(step: dict[str, Any], part: str) -> None:
    for name in ("content", "prepend", "replacement"):
        inserted = step.get(name)
        if isinstance(inserted, str) and len(inserted) > _MAX_INSERTED:
            raise ValueError(
                f"has a {part} that inserts {len(inserted)} characters, at most {_MAX_INSERTED} are"
                " allowed"
            )
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and pattern.get("String") == "":
        raise ValueError(f"has a {part} with an empty pattern")
    if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
        problem = pattern_problem(pattern["Regex"])
        if problem:
            raise ValueError(f"has a {part} whose pattern {problem}")


def _check_ids(where: str, ids: Any) -> None:
    for number in ids:
        if type(number) is not int or not 0 <= number < _MAX_TOKENS:
            raise ValueError(
                f"has a token in {where} numbered {_shown(number)}, expected 0 to {_MAX_TOKENS - 1}"
            )


def _shown(value: Any) -> str:
    return repr(value)[:80]
