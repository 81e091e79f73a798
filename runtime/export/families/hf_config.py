"""A decoder's config.json, as Hugging Face checkpoints have it, to a DecoderConfig; strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.export.decoder_config import DecoderConfig
from runtime.export.families.rope import read_rotary
from runtime.export.families.table import FAMILIES, Family
from runtime.export.families.values import number, refusal, whole
from runtime.export.shards import require_inside
from runtime.rotary import Rotary
from scheduler.errors import CheckpointError
from scheduler.hf_config import spec_from_hf_config
from scheduler.strict_json import read_strict_json
from scheduler.wording import listing

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
_BYTES_LIMIT = 1 << 20
_SILU = ("silu", "swish")
_FULL_LAYERS = 28  # of Qwen2 and Qwen3, before those with a window, where a file names no number
# Where a key has another value than these, the model computes something else.
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "quantization_config": ((None,), "none: a checkpoint that is not quantised"),
    "quantization_bit": ((None, 0), "none: a checkpoint that is not quantised"),
    "pre_seq_len": ((None, 0), "none: the base model without a P-tuning prefix"),
    "apply_residual_connection_post_layernorm": ((None, False), "false"),
    "original_rope": ((None, True), "true"),
}


def read_decoder_config(directory: Path) -> DecoderConfig:
    """Read config.json and generation_config.json of the checkpoint in ``directory``.

    Raises CheckpointError or UserInputError, naming the key, for a file that is missing or
    malformed, and for everything that the decoder graph would compute otherwise.
    """
    document, *generation = map(read_json, config_files(directory))
    return decoder_config(document, directory, *(generation or [{}]))


def config_files(directory: Path) -> list[Path]:
    """config.json and, where there is one, generation_config.json."""
    names = [CONFIG]
    if (directory / GENERATION_CONFIG).exists():
        names.append(GENERATION_CONFIG)
    return [require_inside(directory, name) for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; CheckpointError when it is missing, malformed or over 1 MiB."""
    try:
        return read_strict_json(path, _BYTES_LIMIT)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}; expected a model's {path.name}.") from error


def decoder_config(
    document: Mapping[str, Any], directory: Path, generation: Mapping[str, Any]
) -> DecoderConfig:
    """The DecoderConfig that parsed files describe; ``directory`` names the model and the file."""
    where = str(directory / CONFIG)
    spec = spec_from_hf_config(document, where)
    family = FAMILIES.get(spec.family)
    if family is None:
        raise CheckpointError(
            f"{where} describes a {spec.family}, which can be planned but not exported;"
            f" {listing(['chatglm', *FAMILIES], 'and')} can."
        )
    for key, (allowed, expected) in _ONLY.items():
        if document.get(key) not in allowed:
            raise refusal(where, key, document[key], expected)
    activation = document.get("hidden_act", "silu")
    if activation not in _SILU:
        raise refusal(where, "hidden_act", activation, listing(_SILU, "or"))
    if spec.head_dim % 4:
        raise refusal(where, "head_dim", spec.head_dim, "a multiple of four")
    rotary = read_rotary(document, family, spec.head_dim, where)
    window = _window(document, family, spec.blocks, where)
    return DecoderConfig(
        name=directory.resolve().name,
        family=spec.family,
        hidden_size=spec.hidden_size,
        ffn_size=spec.ffn_size,
        blocks=spec.blocks,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        max_context=_longest(spec.max_context, rotary, window),
        norm="rms",
        norm_epsilon=number(document, family.epsilon, where, above=0, below=1),
        activation="silu",
        gated_mlp=True,
        rotary=rotary,
        stop_ids=_stop_ids(document, generation, family, spec.vocab_size, directory),
        qkv_bias=spec.qkv_bias,
        attention_output_bias=spec.attention_output_bias,
        mlp_bias=spec.mlp_bias,
        qk_norm=spec.qk_norm,
        sandwich_norms=family.sandwich_norms,
        tied_embeddings=spec.tied_embeddings,
        sliding_window=window,
    )


def _longest(stated: int, rotary: Rotary, window: int | None) -> int:
    """The context in tokens that a bundle may be run with.

    Up to its own length a sliding window hides nothing; beyond it, it would. YaRN is switched on in
    a file that goes on stating the context of the training.
    """
    scaling = rotary.scaling
    if scaling is not None and scaling.kind == "yarn":
        stated = max(stated, int(scaling.factor * scaling.original_context))
    return min(stated, window or stated)


def _window(document: Mapping[str, Any], family: Family, blocks: int, where: str) -> int | None:
    """Tokens that attention reaches back in any layer; None where all of them reach everything."""
    layers = document.get("layer_types") or []
    kinds = {"full_attention", "sliding_attention"}
    if not isinstance(layers, list) or not all(one in kinds for one in map(str, layers)):
        raise refusal(where, "layer_types", layers, listing(sorted(kinds), "or"))
    if family.window is None:
        if "sliding_attention" in layers:
            raise refusal(where, "layer_types", layers, "full_attention in this family")
        return None
    switch = family.window_switch
    if switch is not None:
        if document.get(switch, False) is not True:
            return None
        full = whole(document, "max_window_layers", where, _FULL_LAYERS, least=0)
        if not layers and full >= blocks:
            return None
    if "sliding_window" in document and document["sliding_window"] is None:
        return None
    if layers and "sliding_attention" not in layers:
        return None
    return whole(document, "sliding_window", where, family.window)


def _stop_ids(
    document: Mapping[str, Any],
    generation: Mapping[str, Any],
    family: Family,
    vocab_size: int,
    directory: Path,
) -> tuple[int, ...]:
    """The tokens that end an answer: generation_config.json's, else config.json's, else known."""
    where, found = str(directory / GENERATION_CONFIG), generation.get("eos_token_id")
    if found is None:
        where, found = str(directory / CONFIG), document.get("eos_token_id")
    if found is None:
        found = list(family.stop_ids)
    ids = found if isinstance(found, list) else [found]
    if not ids or len(ids) > 64 or not all(_is_token(one, vocab_size) for one in ids):
        raise refusal(
            where, "eos_token_id", found, f"ids below {vocab_size} of the tokens that end an answer"
        )
    return tuple(dict.fromkeys(ids))


def _is_token(value: object, vocab_size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size
