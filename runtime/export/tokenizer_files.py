"""The tokenizer of a checkpoint, as the files and the manifest entry of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.chat_template import check_template
from runtime.export.builtin_templates import CHATGLM2, CHATGLM3, GLM4
from runtime.export.files import describe
from runtime.export.gguf_header import Value
from runtime.export.gguf_vocabulary import gguf_vocabulary
from runtime.export.sentencepiece_vocabulary import sentencepiece_vocabulary
from runtime.export.shards import require_inside
from runtime.export.tiktoken_vocabulary import is_tiktoken, tiktoken_vocabulary
from runtime.export.tokenizer_settings import (
    SETTINGS_FILES,
    TEMPLATE_FILES,
    TokenizerSettings,
)
from runtime.json_tokenizer import JsonTokenizer
from runtime.manifest import Tokenizer
from runtime.tokenizer_document import added_tokens, read_tokenizer_document
from scheduler.errors import CheckpointError

# Special tokens that end a turn under these names in every model that has them.
END_OF_TURN = frozenset(
    (
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|user|>",
        "<|observation|>",
    )
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model")
_GLM_PREFIXES = ("[gMASK]<sop>", "[gMASK]sop")
_CHATGLM2_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_CHATGLM3_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_CHATGLM_CODE = "tokenization_chatglm.py"
_MAX_CODE_BYTES = 1 << 20


def tokenizer_sources(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that `tokenizer_for_bundle` reads: other ones, another bundle."""
    names = (*_VOCABULARIES, *SETTINGS_FILES, *TEMPLATE_FILES, _CHATGLM_CODE)
    found = [require_inside(checkpoint, name) for name in names if (checkpoint / name).exists()]
    if not any(path.name in _VOCABULARIES for path in found):
        raise _no_vocabulary(checkpoint)
    return found


def tokenizer_for_bundle(checkpoint: Path, target: Path, vocab_size: int) -> Tokenizer:
    """Write `tokenizer/` into the bundle at ``target`` and describe it.

    ``tokenizer.json`` is taken where there is one; SentencePiece's or tiktoken's
    ``tokenizer.model`` is converted. The chat template is the checkpoint's own, or for ChatGLM2, 3
    and GLM-4 the format that their code defines. Raises CheckpointError in one sentence.
    """
    settings = TokenizerSettings.of_checkpoint(checkpoint)
    document = _document(checkpoint, settings)
    highest = max(_ids_by_text(document).values())
    if highest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer of {checkpoint} numbers tokens up to {highest}, but the model has"
            f" {vocab_size} rows; they belong to different models."
        )
    special = _special(document)
    bos, add_bos = _beginning(document, special, settings)
    template = settings.chat_template or _builtin_template(special)
    return _write(target, document, template, bos=bos, eos=settings.eos, add_bos=add_bos)


def gguf_tokenizer_for_bundle(metadata: Mapping[str, Value], path: Path, target: Path) -> Tokenizer:
    """The same from the metadata of the GGUF file at ``path``."""
    try:
        found = gguf_vocabulary(metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    special = _special(found.document)
    prefix = _glm_prefix(special)
    return _write(
        target,
        found.document,
        found.chat_template or _builtin_template(special),
        bos=prefix or found.bos,
        eos=found.eos,
        add_bos=bool(prefix) or found.add_bos,
    )


def end_of_turn_ids(checkpoint: Path) -> list[int]:
    """The special tokens of a checkpoint that end a turn, whatever its configuration says.

    Some were published with a generation_config.json that names the end of the text alone.
    """
    special = _special(_document(checkpoint, TokenizerSettings.of_checkpoint(checkpoint)))
    return sorted(special[text] for text in END_OF_TURN & special.keys())


def _document(checkpoint: Path, settings: TokenizerSettings) -> dict[str, Any]:
    whole, model = (checkpoint / name for name in _VOCABULARIES)
    if whole.exists():
        return read_tokenizer_document(whole)
    if not model.is_file():
        raise _no_vocabulary(checkpoint)
    if is_tiktoken(model):
        if not settings.added:
            raise CheckpointError(
                f"{checkpoint} has a tokenizer.model in tiktoken's form, and no"
                " tokenizer_config.json that lists its added tokens; download that file too."
            )
        return tiktoken_vocabulary(model, settings.added)
    appended = _chatglm_tokens(checkpoint) if "ChatGLM" in settings.class_name else ()
    return sentencepiece_vocabulary(model, appended, legacy=settings.legacy)


def _chatglm_tokens(checkpoint: Path) -> tuple[str, ...]:
    """The special tokens that ChatGLM2's and 3's code number behind the pieces.

    ChatGLM3's code names its roles; it is read as text, never run.
    """
    code = checkpoint / _CHATGLM_CODE
    named = b""
    if code.is_file():
        with code.open("rb") as file:
            named = file.read(_MAX_CODE_BYTES)
    roles = _CHATGLM3_TOKENS if b"<|assistant|>" in named else ()
    return (*_CHATGLM2_TOKENS, *roles)


def _special(document: dict[str, Any]) -> dict[str, int]:
    return {one["content"]: one["id"] for one in added_tokens(document) if one.get("special")}


def _ids_by_text(document: dict[str, Any]) -> dict[str | None, int]:
    added = {one["content"]: one["id"] for one in added_tokens(document)}
    return {**document["model"]["vocab"], **added}


def _beginning(
    document: dict[str, Any], special: dict[str, int], settings: TokenizerSettings
) -> tuple[str | None, bool]:
    """The text of the special tokens that begin a plain text, and whether they are put there."""
    prefix = _glm_prefix(special)
    if prefix:
        return prefix, True
    if settings.add_bos is not None or document.get("post_processor") is None:
        llama = settings.class_name.startswith("Llama")
        adds = settings.add_bos if settings.add_bos is not None else llama
        return settings.bos, adds and settings.bos is not None
    return settings.bos, settings.bos is not None and settings.bos in _put_before(document)


def _put_before(document: dict[str, Any]) -> list[str]:
    """The special tokens that the post-processor puts before a text."""
    processor = document["post_processor"]
    steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    found: list[str] = []
    for step in steps:
        if not isinstance(step, dict) or step.get("type") != "TemplateProcessing":
            continue
        for part in step.get("single") or []:
            if not isinstance(part, dict) or "SpecialToken" not in part:
                break
            found.append(str(part["SpecialToken"].get("id")))
    return found


def _glm_prefix(special: dict[str, int]) -> str | None:
    """What GLM puts before every text, where the vocabulary is GLM's."""
    if "[gMASK]" not in special:
        return None
    return next((text for text in _GLM_PREFIXES if text.removeprefix("[gMASK]") in special), None)


def _builtin_template(special: dict[str, int]) -> str | None:
    prefix, has_roles = _glm_prefix(special), special.keys() >= {*_CHATGLM3_TOKENS}
    if prefix == "[gMASK]sop":
        return CHATGLM3 if has_roles else CHATGLM2
    return GLM4 if prefix and has_roles else None


def _write(
    bundle: Path,
    document: dict[str, Any],
    chat_template: str | None,
    *,
    bos: str | None,
    eos: str | None,
    add_bos: bool,
) -> Tokenizer:
    folder = bundle / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    path, template = folder / "tokenizer.json", None
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    JsonTokenizer(path).encode("proof")  # loads and runs
    if chat_template is not None:
        check_template(chat_template)
        template = folder / "chat_template.jinja"
        template.write_text(chat_template, encoding="utf-8", newline="")
    return Tokenizer(
        file=describe(bundle, path),
        kind="tokenizer.json",
        add_bos=add_bos,
        bos=bos,
        eos=eos,
        chat_template=None if template is None else describe(bundle, template),
    )


def _no_vocabulary(checkpoint: Path) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint} has no {' and no '.join(_VOCABULARIES)}; download one of them into it from"
        " where the model was published."
    )
