"""How a config.json says that queries and keys rotate, in its old form and in transformers 5's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from runtime.export.families.table import Family
from runtime.export.families.values import fraction, number, refusal, whole
from runtime.rotary import Rotary, RotaryScaling

_DEFAULT_BASE = 10000.0  # of transformers, where a file names none
_KINDS: Mapping[str, Literal["linear", "llama3", "yarn"]] = {
    "linear": "linear",
    "llama3": "llama3",
    "yarn": "yarn",
}


def read_rotary(config: Mapping[str, Any], family: Family, head_dim: int, where: str) -> Rotary:
    """The rotary embedding that ``config``, the parsed file ``where``, describes.

    Raises CheckpointError, naming the key, for a scaling or a layout that cannot be expressed.
    """
    settings = _settings(config, where)
    share = fraction(settings, "partial_rotary_factor", where, family.rotary_share)
    if share != family.rotary_share and not family.rotary_share_varies:
        raise refusal(
            where, "partial_rotary_factor", share, f"{family.rotary_share:g} in this family"
        )
    dim = int(head_dim * share)
    if dim < 2 or dim % 2:
        raise refusal(
            where, "partial_rotary_factor", share, f"an even part of a head of {head_dim}"
        )
    if settings.get("rope_interleaved"):
        raise refusal(where, "rope_interleaved", True, "false")
    base = number(settings, "rope_theta", where, _DEFAULT_BASE, above=1)
    # glm-4 and ChatGLM3's long release multiply the base; ChatGLM2's divides positions.
    ratio = number(settings, "rope_ratio", where, 1.0, above=0)
    if ratio != 1 and "chatglm2" in str(config.get("_name_or_path", "")).lower():
        raise refusal(where, "rope_ratio", ratio, "1 for a ChatGLM2 (its long release differs)")
    return Rotary(family.pairing, dim, base * ratio, _scaling(settings, config, where))


def _settings(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """All keys about rotation in one mapping; those of the nested object win."""
    nested = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(nested, dict):
        raise refusal(where, "rope_scaling", nested, "an object or null")
    if any(isinstance(value, dict) for value in nested.values()):
        raise refusal(where, "rope_parameters", nested, "one for all layers")
    return {**config, **{key: value for key, value in nested.items() if value is not None}}


def _scaling(
    settings: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> RotaryScaling | None:
    name = settings.get("rope_type", settings.get("type", "default"))
    if name == "default":
        return None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise refusal(where, "rope_type", name, "default, linear, llama3 or yarn")
    factor = number(settings, "factor", where, above=0)
    pretrained = "original_max_position_embeddings"
    original = whole(
        config if config.get(pretrained) is not None else settings,
        pretrained,
        where,
        whole(config, "max_position_embeddings", where),
    )
    if kind == "linear":
        return RotaryScaling("linear", factor, original)
    if kind == "llama3":
        low = number(settings, "low_freq_factor", where, above=0)
        high = number(settings, "high_freq_factor", where, above=low)
        return RotaryScaling("llama3", factor, original, low, high)
    if settings.get("truncate", True) is not True:
        raise refusal(where, "truncate", settings["truncate"], "true")
    slow = number(settings, "beta_slow", where, 1.0, above=0)
    return RotaryScaling(
        "yarn",
        factor,
        original,
        beta_fast=number(settings, "beta_fast", where, 32.0, above=slow),
        beta_slow=slow,
        attention_factor=_attention_factor(settings, factor, where),
    )


def _attention_factor(settings: Mapping[str, Any], factor: float, where: str) -> float | None:
    """As transformers: given, or a ratio of two scales, or None for the paper's."""
    if settings.get("attention_factor") is not None:
        return number(settings, "attention_factor", where, above=0)
    scales = [
        number(settings, name, where, above=0) if settings.get(name) else None
        for name in ("mscale", "mscale_all_dim")
    ]
    if scales[0] is None or scales[1] is None or factor <= 1:
        return None
    top, bottom = (0.1 * scale * math.log(factor) + 1.0 for scale in scales if scale is not None)
    return top / bottom
