"""A vocabulary in tiktoken's form, lines of base64 text and rank, as a tokenizer.json."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.export.bpe_document import AddedText, byte_level_document, word_pattern
from runtime.piece_bytes import byte_letters
from scheduler.errors import CheckpointError

_MAX_BYTES = 32 << 20  # GLM-4's 151,329 tokens take 2.6 MB
_MAX_TOKEN_BYTES = 512


def is_tiktoken(path: Path) -> bool:
    """Whether the file begins with a line of base64 and a number."""
    with path.open("rb") as file:
        return _entry(file.readline(2 * _MAX_TOKEN_BYTES)) is not None


def tiktoken_vocabulary(path: Path, added: Mapping[int, tuple[str, bool]]) -> dict[str, Any]:
    """Convert the `tokenizer.model` of GLM-4; `added` maps ids to (text, whether special).

    tiktoken joins the neighbours whose joint text has the lowest rank, so every way to cut a token
    in two tokens is a merge with the token's rank. Raises CheckpointError.
    """
    ranks = _read(path)
    letters = byte_letters()
    numbered = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    by_rank = sorted(numbered, key=numbered.__getitem__)
    merges = [
        (token[:cut], token[cut:])
        for token in by_rank
        for cut in range(1, len(token))
        if token[:cut] in numbered and token[cut:] in numbered
    ]
    return byte_level_document(
        numbered,
        merges,
        [word_pattern(r"\p{N}{1,3}")],
        [AddedText(number, text, special) for number, (text, special) in added.items()],
        ignore_merges=True,
    )


def _read(path: Path) -> dict[bytes, int]:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_BYTES >> 20} MiB.")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        entry = _entry(line)
        if entry is None or entry[0] in ranks:
            raise CheckpointError(
                f"{path} is damaged in line {number}; expected base64 text and a rank, download the"
                " checkpoint again."
            )
        ranks[entry[0]] = entry[1]
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(
            f"{path} is incomplete: single bytes or ranks are missing; download the checkpoint"
            " again."
        )
    return ranks


def _entry(line: bytes) -> tuple[bytes, int] | None:
    parts = line.split()
    try:
        token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
    except (IndexError, ValueError, binascii.Error):
        return None
    return (token, rank) if len(parts) == 2 and 0 < len(token) <= _MAX_TOKEN_BYTES else None
