"""Read a model's geometry from a Hugging Face `config.json`, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.errors import UserInputError
from scheduler.hf_families import CHATGLM_LAYOUTS, FAMILIES
from scheduler.model import LARGEST, ModelSpec
from scheduler.strict_json import parse_strict_json
from scheduler.wording import near_matches, shorten, show_value

_LARGEST_FILE_BYTES = 1 << 20
_SWITCHES = ("qkv_bias", "attention_output_bias", "mlp_bias", "lm_head_bias", "qk_norm")
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def spec_from_hf_config(config: Mapping[str, Any], name: str) -> ModelSpec:
    """Turn the parsed `config.json` of a dense decoder into the geometry of model `name`.

    Knows ChatGLM 1 to 3, GLM-4, Llama, Mistral, Qwen 2, 2.5 and 3, Gemma 1 to 3 (text), GPT-NeoX,
    Phi and Phi-3. Raises UserInputError, naming the key, for a missing key, a value of the wrong
    type or out of range, a mixture of experts, or an unknown model_type.
    """
    family_name = _family_name(config, name)
    family = FAMILIES[family_name]
    for key, expected in family.only.items():
        if _switch(config, key, expected, name) != expected:
            raise UserInputError(
                f"{name}: {key} is {_show(config, key)}, which no published model of this family"
                " has; glm-plan cannot plan it."
            )
    sizes: dict[str, Any] = {
        item: _size(config, key, item, name) for item, key in family.sizes.items()
    }
    for item, key in family.optional.items():
        if config.get(key) is not None:
            sizes[item] = _size(config, key, item, name)
    _complete_heads(sizes, name)
    switches: dict[str, Any] = {item: getattr(family, item) for item in _SWITCHES}
    for item, keys in family.switches.items():
        states = [_switch(config, key, switches[item], name) for key in keys]
        switches[item] = any(states)
    return ModelSpec(
        name=name,
        family=family_name,
        norm=family.norm,
        gated_mlp=family.gated_mlp,
        norms_per_block=family.norms_per_block,
        tied_embeddings=_switch(config, "tie_word_embeddings", family.tied_embeddings, name),
        **sizes,
        **switches,
    )


def read_hf_config(path: Path) -> ModelSpec:
    """Read a `config.json`, or the one in a checkpoint directory; the directory names the model.

    Raises UserInputError for a file that is missing, over 1 MiB, not JSON or not a known model.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            text = stream.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UserInputError(f"{file} cannot be read: {error.strerror or error}.") from error
    if len(text) > _LARGEST_FILE_BYTES:
        raise UserInputError(f"{file} is over 1 MiB; a model's config.json is a few KiB.")
    try:
        config = parse_strict_json(text)
    except ValueError as error:
        raise UserInputError(f"{file} {error}; expected a model's config.json.") from error
    return spec_from_hf_config(config, file.resolve().parent.name)


def _family_name(config: Mapping[str, Any], name: str) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UserInputError(
            f"{name}: model_type is {_show(config, 'model_type')}; expected a string such as"
            " 'chatglm' or 'llama'."
        )
    experts = next((key for key in _EXPERT_KEYS if config.get(key) not in (None, 0, 1)), None)
    if experts is not None:
        raise UserInputError(
            f"{name}: {experts} is {_show(config, experts)}, a mixture of experts; glm-plan plans"
            " dense decoders only."
        )
    if "text_config" in config:
        raise UserInputError(
            f"{name}: model_type {shorten(model_type)} holds a text model inside a larger one;"
            " give its text_config as a config.json of its own."
        )
    if model_type == "chatglm":
        return CHATGLM_LAYOUTS["ffn_hidden_size" in config]
    if model_type not in FAMILIES or model_type in CHATGLM_LAYOUTS:
        known = sorted(set(FAMILIES) - {"chatglm2"})
        hint = near_matches(model_type, known)
        raise UserInputError(f"{name}: model_type {shorten(model_type)} is unknown; {hint}")
    return model_type


def _complete_heads(sizes: dict[str, int], name: str) -> None:
    """Fill in kv_heads and head_dim where the file gives none, and check that heads divide."""
    heads = sizes["heads"]
    if heads % sizes.setdefault("kv_heads", heads):
        raise UserInputError(
            f"{name}: {heads} attention heads cannot share {sizes['kv_heads']} key/value heads"
            " evenly; expected a divisor."
        )
    if "head_dim" not in sizes:
        if sizes["hidden_size"] % heads:
            raise UserInputError(
                f"{name}: hidden size {sizes['hidden_size']} is not a multiple of {heads} attention"
                " heads, and the file gives no head size."
            )
        sizes["head_dim"] = sizes["hidden_size"] // heads


def _size(config: Mapping[str, Any], key: str, item: str, name: str) -> int:
    value = config.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST[item]:
        return value
    raise UserInputError(
        f"{name}: {key} is {_show(config, key)}; expected a whole number from 1 to {LARGEST[item]}."
    )


def _switch(config: Mapping[str, Any], key: str, default: bool, name: str) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise UserInputError(f"{name}: {key} is {_show(config, key)}; expected true or false.")


def _show(config: Mapping[str, Any], key: str) -> str:
    return show_value(config[key]) if key in config else "missing"
