"""A SentencePiece model of byte-pair encoding as a tokenizer.json."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.export.bpe_document import AddedText, sentencepiece_document
from runtime.tokenizer import MAX_MODEL_BYTES
from scheduler.errors import CheckpointError

# Piece types and model types of sentencepiece_model.proto.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_BPE = 2


def sentencepiece_vocabulary(
    path: Path, appended: Sequence[str] = (), *, legacy: bool = True
) -> dict[str, Any]:
    """Convert `tokenizer.model`; `appended` are special tokens numbered behind its pieces.

    ``legacy``: SentencePiece's blank comes before every part between special tokens, not only
    before the first one. Raises CheckpointError for a damaged file or another kind of model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MODEL_BYTES + 1)
        if len(content) > MAX_MODEL_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_MODEL_BYTES >> 20} MiB.")
        model.ParseFromString(content)
    except (OSError, DecodeError):
        raise CheckpointError(
            f"{path} is no SentencePiece model; download the checkpoint again."
        ) from None
    if model.trainer_spec.model_type != _BPE:
        raise CheckpointError(
            f"{path} is a SentencePiece model of another kind than pair encoding, which is not"
            " converted; use a checkpoint that has a tokenizer.json."
        )
    pieces = [one.piece for one in model.pieces]
    if not pieces or not model.trainer_spec.byte_fallback:
        raise CheckpointError(
            f"{path} has no pieces for single bytes, which is not converted; use a checkpoint that"
            " has a tokenizer.json."
        )
    added = [
        AddedText(number, one.piece, special=one.type != _USER_DEFINED)
        for number, one in enumerate(model.pieces)
        if one.type in {_UNKNOWN, _CONTROL, _USER_DEFINED}
    ]
    added += [
        AddedText(number, text, special=True) for number, text in enumerate(appended, len(pieces))
    ]
    if not model.normalizer_spec.add_dummy_prefix:
        blank_before = "never"
    else:
        blank_before = "every part" if legacy else "first"
    return sentencepiece_document(
        [*pieces, *appended],
        [*(one.score for one in model.pieces), *(0.0 for _ in appended)],
        [*(one.type == _NORMAL for one in model.pieces), *(False for _ in appended)],
        next((one.piece for one in model.pieces if one.type == _UNKNOWN), None),
        added,
        before=_normalizers(model.normalizer_spec),
        blank_before=blank_before,
    )


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        rules = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": rules})
    if spec.remove_extra_whitespaces:
        # Blanks only: tabs and line ends are ordinary characters.
        for pattern, content in ((r"\A +| +\z", ""), (" {2,}", " ")):
            steps.append({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
    return steps
