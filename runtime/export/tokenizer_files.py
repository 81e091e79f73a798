"""A checkpoint's tokenizer, as files of the bundle."""

from __future__ import annotations

from pathlib import Path

from runtime.export.files import copy_file, describe
from runtime.export.shards import require_inside
from runtime.manifest import Tokenizer
from scheduler.errors import CheckpointError

_NAME = "tokenizer.json"


def tokenizer_sources(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that `tokenizer_for_bundle` reads."""
    if not (checkpoint / _NAME).exists():
        raise CheckpointError(
            f"{checkpoint} has no {_NAME}; expected the tokenizer in that form beside config.json."
        )
    return [require_inside(checkpoint, _NAME)]


def tokenizer_for_bundle(checkpoint: Path, target: Path) -> Tokenizer:
    """Write the tokenizer of ``checkpoint`` into the bundle at ``target`` and describe it."""
    path = copy_file(require_inside(checkpoint, _NAME), target / "tokenizer" / _NAME)
    return Tokenizer(file=describe(target, path), kind="tokenizer.json")
