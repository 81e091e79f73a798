"""A small SentencePiece model with the pieces and options of ChatGLM's `ice_text.model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece

from runtime.manifest import SpecialTokens

CONTROL = ["[MASK]", "[gMASK]", "<sop>", "<eop>"]
MARKUP = ["<n>", "<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81))]
_TEXTS = [
    "法国的首都是哪里？法国的首都是巴黎。",
    "The capital of France is Paris, and 12+7 is 19.",
    "你好！有什么可以帮你的吗？ Hello: how can I help you; today?",
]


def write_tokenizer(path: Path, **options: Any) -> SpecialTokens:
    """Train the model into `path`; return its special ids, in SentencePiece's numbering.

    As in the releases, a user may type a control token: `[gMASK]` is user-defined, hence matched in
    plain text unless the caller takes care.
    """
    settings = {
        "model_type": "bpe",
        "vocab_size": 480,
        "character_coverage": 1.0,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "pad_id": 3,
        "user_defined_symbols": [*CONTROL, *MARKUP],
        "minloglevel": 2,
    }
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(_TEXTS * 20), model_writer=file, **(settings | options)
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    mask, gmask, bos, eos = map(pieces.PieceToId, CONTROL)
    return SpecialTokens(mask=mask, gmask=gmask, bos=bos, eos=eos, pad=3)
