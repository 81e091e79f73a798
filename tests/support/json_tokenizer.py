"""Small files tokenizer.json: of letters only, and trained ones in the two ways that models use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from runtime.export.bpe_document import AddedText, byte_level_document, word_pattern
from runtime.export.sentencepiece_vocabulary import sentencepiece_vocabulary

MARKUP = ("<|im_start|>", "<|im_end|>", "sop", "[gMASK]")
THINK = "<think>"  # matched in every text, and printed
KINDS = ("byte level", "sentencepiece", "sentencepiece, first", "sentencepiece, no blank")
TEXTS = [
    "法国的首都是哪里？法国的首都是巴黎。",
    "The capital of France is Paris, and 12+7 is 19.",
    "你好！有什么可以帮你的吗？ Hello: how can I help you; don't you see it today?",
    "for i in range(10):\n    x = [i]\n\tprint('the', x)\r\n",
]
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.\u0120"

PARTS = st.sampled_from(
    ["The capital of", " Paris", "法国", "的首都", "𝄞", "é", "\n", "\t", "  ", " " * 7, "12345"]
)
SOME = st.lists(PARTS | st.text(max_size=6), max_size=10).map("".join)
PLAIN_TEXTS = SOME.filter(lambda text: not re.search("[\ud800-\udfff\0\u2581\ufdd0\ufdd1]", text))


def write_letters(directory: Path) -> None:
    """Write `tokenizer.json`: byte-level, letters without merges."""
    document = byte_level_document(
        {letter: number for number, letter in enumerate(_LETTERS)}, [], [r"\s+"], []
    )
    (directory / "tokenizer.json").write_text(json.dumps(document))


def write_tokenizer_json(path: Path, kind: str) -> None:
    """Write a trained tokenizer with `MARKUP` as special tokens."""
    if kind == "byte level":
        document = _byte_level()
    else:
        model = path.with_name("tokenizer.model")
        train_sentencepiece(model, add_dummy_prefix=kind != "sentencepiece, no blank")
        legacy = kind != "sentencepiece, first"
        document = sentencepiece_vocabulary(model, MARKUP, legacy=legacy)
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def train_sentencepiece(path: Path, **options: Any) -> None:
    """Train a model as Llama 2's: pairs with bytes for unknown characters."""
    import sentencepiece

    settings = {
        "model_type": "bpe",
        "vocab_size": 480,
        "character_coverage": 1.0,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "minloglevel": 2,
    }
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(TEXTS * 20), model_writer=file, **(settings | options)
        )


def _byte_level() -> dict[str, Any]:
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train_from_iterator(TEXTS * 20, trainer)
    model = json.loads(trained.to_str())["model"]
    added = [
        AddedText(number, text, special=text != THINK)
        for number, text in enumerate((*MARKUP, THINK), len(model["vocab"]))
    ]
    cut = word_pattern(r"\p{N}{1,3}")
    return byte_level_document(model["vocab"], model["merges"], [cut], added)
