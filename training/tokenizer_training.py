"""The tiny model's SentencePiece tokenizer, in the conventions of ChatGLM's `ice_text.model`."""

from __future__ import annotations

import io
import random
from pathlib import Path

import sentencepiece

from runtime.manifest import SpecialTokens
from runtime.tokenizer import LONGEST_BLANK, NEWLINE, TAB, Tokenizer
from training.questions import training_item

VOCABULARY = 1536
SENTENCES = 40_000
_CONTROL = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
_PAD_ID = 3


def train_tokenizer(path: Path, seed: int, sentences: int = SENTENCES) -> Tokenizer:
    """Learn pieces from generated questions and answers, write the model file, and open it.

    Digits stay single so that arithmetic can generalise; characters without a piece are spelled in
    bytes.
    """
    rng = random.Random(seed)
    lines: list[str] = []
    for _ in range(sentences):
        item = training_item(rng)
        lines += [*item.question.splitlines(), item.answer]
    lines += [chr(code) for code in range(33, 127)] * 40
    lines += [f"[Round {number}]" for number in range(10)] * 40 + ["问：", "答："] * 400
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        split_by_unicode_script=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=_PAD_ID,
        control_symbols=_CONTROL,
        user_defined_symbols=[
            NEWLINE,
            TAB,
            *(f"<|blank_{length}|>" for length in range(2, LONGEST_BLANK + 1)),
        ],
        minloglevel=2,
        num_threads=1,
    )
    path.write_bytes(model.getvalue())
    return open_tokenizer(path)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer with its special ids, read from the pieces themselves."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Tokenizer(
        path,
        SpecialTokens(
            mask=pieces.PieceToId("[MASK]"),
            gmask=pieces.PieceToId("[gMASK]"),
            bos=pieces.PieceToId("<sop>"),
            eos=pieces.PieceToId("<eop>"),
            pad=_PAD_ID,
        ),
    )
