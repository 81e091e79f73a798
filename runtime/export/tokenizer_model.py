"""Whether a file is a SentencePiece model that fits the checkpoint."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from scheduler.errors import CheckpointError


def require_tokenizer(path: Path, vocab_size: int) -> None:
    """Raise CheckpointError unless ``path`` is a SentencePiece model of at most ``vocab_size``."""
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.Load(str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a SentencePiece model; expected the ice_text.model of ChatGLM-6B."
        ) from error
    if pieces.GetPieceSize() > vocab_size:
        raise CheckpointError(
            f"{path} has {pieces.GetPieceSize()} pieces for a vocabulary of {vocab_size}; it"
            " belongs to another model."
        )
