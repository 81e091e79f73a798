"""Which files of a repository a model needs: configuration, tokenizer, and one form of weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from runtime.model_store import RemoteFile
from scheduler.errors import CheckpointError, UserInputError
from scheduler.wording import listing, shorten

_BESIDE = {
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "ice_text.model",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
}
_TERMS = ("licen", "model_licen", "notice", "use_policy")
_SAFETENSORS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_TORCH = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
_PART_OF_GGUF = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_USUAL_GGUF = "q4_k_m"  # what llama.cpp and Ollama take of several


def choose_files(
    repo: str, files: Sequence[RemoteFile], patterns: Sequence[str] = ()
) -> list[RemoteFile]:
    """The files to fetch, smallest first, so that what is wrong is found before the weights.

    Weights are safetensors, else PyTorch files, else one GGUF model with all its parts. With
    `patterns` it is what they match and no more: a path, a pattern such as ``*.gguf``, or part of a
    GGUF file's name such as ``Q8_0``. Raises CheckpointError for a repository without what is
    needed or with unusable paths, UserInputError for patterns that match nothing or too much.
    """
    for file in files:
        _require_plain(repo, file.path)
    by_path = {file.path: file for file in files}
    chosen = _matching(repo, by_path, patterns) if patterns else _needed(repo, by_path)
    _require_one_gguf(repo, chosen)
    return sorted((by_path[path] for path in chosen), key=lambda one: (one.size_bytes, one.path))


def _needed(repo: str, by_path: dict[str, RemoteFile]) -> list[str]:
    weights = _sharded(by_path, _SAFETENSORS, "model.safetensors")
    weights = weights or _sharded(by_path, _TORCH, "pytorch_model.bin")
    if not weights:
        return _one_gguf(repo, by_path)
    if "config.json" not in by_path:
        raise CheckpointError(f"{repo} has no config.json; expected the repository of a model.")
    terms = [path for path in by_path if "/" not in path and path.lower().startswith(_TERMS)]
    return [*weights, *(path for path in by_path if path in _BESIDE), *terms]


def _sharded(by_path: dict[str, RemoteFile], kind: re.Pattern[str], single: str) -> list[str]:
    """Shards with their index, or the single file."""
    index = f"{single}.index.json"
    shards = [one for one in by_path if kind.fullmatch(one) and one != single]
    if index in by_path and shards:
        return [index, *shards]
    return [single] if single in by_path else []


def _one_gguf(repo: str, by_path: dict[str, RemoteFile]) -> list[str]:
    every = _gguf_models(path for path in by_path if _is_model_gguf(path))
    usual = {name: parts for name, parts in every.items() if _USUAL_GGUF in name.lower()}
    for found in (every, usual):
        if len(found) == 1:
            return next(iter(found.values()))
    if not every:
        raise CheckpointError(
            f"{repo} has no weights that glm-plan reads: expected model.safetensors,"
            " pytorch_model.bin (or their shards), or a GGUF file."
        )
    raise UserInputError(f"{repo} has several GGUF files; choose with --file: {_names(every)}.")


def _matching(repo: str, by_path: dict[str, RemoteFile], patterns: Sequence[str]) -> list[str]:
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = _match(by_path, pattern)
        if not found:
            gguf = [path for path in by_path if _is_model_gguf(path)]
            raise UserInputError(
                f"--file {shorten(pattern)} matches nothing in {repo}; it has"
                f" {_names(gguf or list(by_path)) if by_path else 'no files'}."
            )
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _match(by_path: dict[str, RemoteFile], pattern: str) -> list[str]:
    if pattern in by_path:
        return [pattern]
    wanted = pattern.lower()
    matched = [path for path in by_path if fnmatchcase(path.lower(), wanted)]
    return matched or [path for path in by_path if _is_model_gguf(path) and wanted in path.lower()]


def _require_one_gguf(repo: str, chosen: Sequence[str]) -> None:
    models = _gguf_models(path for path in chosen if path.lower().endswith(".gguf"))
    if len(models) > 1:
        raise UserInputError(
            f"--file matches {len(models)} GGUF models of {repo}; choose one of {_names(models)}."
        )
    for name, parts in models.items():
        part = _PART_OF_GGUF.search(parts[0])
        if part and len(parts) != int(part[1]):
            raise UserInputError(
                f"{name} of {repo} is in {int(part[1])} files and {len(parts)} of them"
                f" {'is' if len(parts) == 1 else 'are'} chosen; all are needed."
            )


def _gguf_models(paths: Iterable[str]) -> dict[str, list[str]]:
    """GGUF files by model: what gguf-split has split is one model of several files."""
    models: dict[str, list[str]] = {}
    for path in sorted(paths):
        models.setdefault(_PART_OF_GGUF.sub(".gguf", path), []).append(path)
    return models


def _is_model_gguf(path: str) -> bool:
    """Not the vision part that some repositories keep beside the model."""
    return path.lower().endswith(".gguf") and "mmproj" not in path.lower()


def _require_plain(repo: str, path: str) -> None:
    """Refuse a path that would leave the directory it is fetched into, on any system."""
    parts = PurePosixPath(path).parts
    odd = not path.isprintable() or any(sign in path for sign in '\\:*?"<>|')
    if not parts or odd or path.startswith("/") or ".." in parts or len(path) > 255:
        raise CheckpointError(
            f"{repo} lists the file {shorten(path)}; expected a path inside the repository."
        )


def _names(paths: Iterable[str]) -> str:
    return listing(sorted(paths), "or")
