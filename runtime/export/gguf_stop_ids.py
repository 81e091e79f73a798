"""The tokens that end an answer, as a GGUF file's metadata names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtime.export.gguf_header import Value
from scheduler.errors import CheckpointError

_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
_CONTROL = 3  # token type of the GGUF specification: never part of a text
# Control tokens that llama.cpp takes for the end of an answer wherever a vocabulary has them
# (src/llama-vocab.cpp); older files state none but eos.
_TEXTS = {
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
}
# The roles that GLM hands over to, which its generation_config.json lists beside the end of text.
_GLM, _GLM_TEXTS = ("chatglm", "glm4"), {"<|user|>", "<|observation|>"}


def stop_ids(path: Path, metadata: Mapping[str, Value], vocabulary: int) -> tuple[int, ...]:
    """Ids in rising order; CheckpointError where there is none, or one beyond the vocabulary."""
    found = set()
    for key in _KEYS:
        number = metadata.get(key)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number >= vocabulary:
            raise CheckpointError(
                f"{path} says {number!r:.60} for {key}; expected an id below {vocabulary}."
            )
        if number >= 0:  # -1 is written for none
            found.add(number)
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    texts = _TEXTS | (_GLM_TEXTS if metadata.get("general.architecture") in _GLM else set())
    if isinstance(tokens, list) and isinstance(types, list):
        found |= {
            number
            for number, (text, kind) in enumerate(zip(tokens, types, strict=False))
            if kind == _CONTROL and text in texts and number < vocabulary
        }
    if not found:
        raise CheckpointError(
            f"{path} names no token that ends an answer; expected {_KEYS[0]} in its metadata."
        )
    return tuple(sorted(found))
