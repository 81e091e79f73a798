"""The vocabulary inside a GGUF file as a tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.export.bpe_document import (
    GPT2_PATTERN,
    AddedText,
    byte_level_document,
    sentencepiece_document,
    word_pattern,
)
from runtime.export.gguf_header import Value
from scheduler.errors import CheckpointError

# Token types, from the GGUF specification.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6


@dataclass(frozen=True)
class _Cut:
    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


_GPT2 = _Cut((GPT2_PATTERN,))
_DIGITS = _Cut((r"\p{N}", GPT2_PATTERN))
_LLAMA3 = _Cut((word_pattern(r"\p{N}{1,3}"),), ignore_merges=True, adds_bos=True)
_QWEN2 = _Cut((word_pattern(r"\p{N}"),))
_GLM4 = _Cut((word_pattern(r"\p{N}{1,3}"),))
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = _Cut(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    ignore_merges=True,
    adds_bos=True,
)
_UNNAMED = _Cut((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"))
# How each pre-tokenizer cuts text: facts from `llama_vocab` and `llm_tokenizer_bpe` in llama.cpp's
# src/llama-vocab.cpp, by the names that its converter writes.
_CUTS = {
    "default": _UNNAMED,
    "gpt-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
    "chatglm-bpe": _GLM4,
    "glm4": _GLM4,
    "tekken": _TEKKEN,
}


@dataclass(frozen=True)
class GgufVocabulary:
    """A GGUF file's tokenizer: the document, and what its metadata says about special tokens."""

    document: dict[str, Any]
    bos: str | None
    eos: str | None
    add_bos: bool
    chat_template: str | None


def gguf_vocabulary(metadata: Mapping[str, Value]) -> GgufVocabulary:
    """Read the keys `tokenizer.*` of a GGUF header.

    Understood are the models `gpt2` (byte-level pairs) and `llama` (SentencePiece pairs); other
    models and unknown pre-tokenizers are refused by name. Raises CheckpointError.
    """
    reader = _Metadata(metadata)
    model = reader.text("model")
    if model not in {"gpt2", "llama"}:
        raise CheckpointError(
            f"the GGUF file has a tokenizer of the model {model!r}; understood are gpt2 and llama."
        )
    tokens = reader.texts("tokens")
    types = reader.numbers("token_type", len(tokens)) or [_NORMAL] * len(tokens)
    added = [
        AddedText(number, token, special=kind != _USER_DEFINED)
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in {_UNKNOWN, _CONTROL, _USER_DEFINED} and token
    ]
    if model == "gpt2":
        cut = _cut(reader.text("pre", "default"))
        document = byte_level_document(
            _numbered(tokens),
            [_merge(text) for text in reader.texts("merges")],
            cut.patterns,
            added,
            ignore_merges=cut.ignore_merges,
        )
        adds_bos = cut.adds_bos
    else:
        document = _llama_document(reader, tokens, types, added)
        adds_bos = True
    bos, eos = (reader.token_id(name, len(tokens)) for name in ("bos", "eos"))
    return GgufVocabulary(
        document,
        None if bos is None else tokens[bos],
        None if eos is None else tokens[eos],
        reader.flag("add_bos_token", adds_bos) and bos is not None,
        reader.template(),
    )


def _llama_document(
    reader: _Metadata, tokens: list[str], types: list[int], added: list[AddedText]
) -> dict[str, Any]:
    scores = reader.numbers("scores", len(tokens))
    if not scores:
        raise CheckpointError("the GGUF file's tokenizer has no scores; download it again.")
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    return sentencepiece_document(
        tokens,
        scores,
        [kind == _NORMAL for kind in types],
        unknown,
        added,
        blank_before="every part" if reader.flag("add_space_prefix", True) else "never",
    )


def _cut(name: str) -> _Cut:
    if name not in _CUTS:
        raise CheckpointError(
            f"the GGUF file's pre-tokenizer {name[:80]!r} is unknown; understood are"
            f" {', '.join(sorted(_CUTS))}. Export the model from its safetensors files instead."
        )
    return _CUTS[name]


def _numbered(tokens: list[str]) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for number, token in enumerate(tokens):
        vocabulary.setdefault(token, number)
    return vocabulary


def _merge(text: str) -> tuple[str, str]:
    cut = text.find(" ", 1)
    if cut < 0:
        raise CheckpointError(f"the GGUF file's merge {text[:80]!r} is no pair; download it again.")
    return text[:cut], text[cut + 1 :]


class _Metadata:
    """The keys under `tokenizer.ggml.`, checked as they are read."""

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        self._metadata = metadata

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._get(name, None)
        if not isinstance(value, list) or not value:
            raise self._wrong(name, "a list of texts")
        texts = [one for one in value if isinstance(one, str)]
        if len(texts) < len(value):
            raise self._wrong(name, "a list of texts")
        return texts

    def numbers(self, name: str, count: int) -> list[Any]:
        """A list of `count` numbers; empty where the key is missing."""
        value = self._get(name, [])
        if not isinstance(value, list) or len(value) not in {0, count}:
            raise self._wrong(name, f"{count} numbers, one per token")
        if not all(isinstance(one, int | float) for one in value):
            raise self._wrong(name, f"{count} numbers, one per token")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def token_id(self, name: str, count: int) -> int | None:
        value = self._get(f"{name}_token_id", None)
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value < count:
            raise self._wrong(f"{name}_token_id", f"a token below {count}")
        return value

    def template(self) -> str | None:
        value = self._metadata.get("tokenizer.chat_template")
        if value is not None and not isinstance(value, str):
            raise CheckpointError("the GGUF file's tokenizer.chat_template is no text.")
        return value or None

    def _get(self, name: str, default: Any) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}", default)

    @staticmethod
    def _wrong(name: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"the GGUF file's tokenizer.ggml.{name} is missing or damaged; expected {expected},"
            " download or convert it again."
        )
