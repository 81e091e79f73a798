"""Whether a file is the tokenizer of the checkpoint, as the runtime will use it."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from runtime.manifest import SpecialTokens
from runtime.tokenizer import Tokenizer
from scheduler.errors import CheckpointError


def require_tokenizer(path: Path, special: SpecialTokens, vocab_size: int) -> None:
    """Raise CheckpointError unless ``path`` is a ChatGLM tokenizer of at most ``vocab_size``."""
    Tokenizer(path, special)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).GetPieceSize()
    if pieces > vocab_size:
        raise CheckpointError(
            f"{path} has {pieces} pieces for a vocabulary of {vocab_size}; it belongs to another"
            " model."
        )
