"""The geometry that all contenders run: ChatGLM-6B's, with random weights.

The standard library only, as peers' Pythons read it too.
"""

from __future__ import annotations

BLOCKS = 28
HIDDEN = 4096
HEADS = 32
FFN = 4 * HIDDEN
VOCAB = 130528
MAX_CONTEXT = 2048
THREADS = 2


def prompt_ids(tokens: int) -> list[int]:
    """Ordinary ids of any vocabulary, the same for everybody."""
    return [7 + number % 50 for number in range(tokens)]
