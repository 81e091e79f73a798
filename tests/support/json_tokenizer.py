"""A tokenizer.json of 64 letters, for checkpoints whose text does not matter."""

from __future__ import annotations

import json
from pathlib import Path

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.\u0120"


def write_letters(directory: Path) -> None:
    """Write `tokenizer.json`: byte-level, without merges."""
    letters = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": letters | {"trim_offsets": True},
        "decoder": letters | {"trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": {letter: number for number, letter in enumerate(_LETTERS)},
            "merges": [],
        },
    }
    (directory / "tokenizer.json").write_text(json.dumps(document))
