"""The weights of one part, named by what they do, as every checkpoint layout delivers them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_VALUES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Norm:
    """Layer norm: ``weight`` and ``bias``, each [hidden], fp32."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Linear:
    """Linear layer: ``weight`` [out, in] and ``bias`` [out], fp32; y = x · weightᵀ + bias."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class BlockWeights:
    """One transformer block; ``query_key_value`` rows as published: per head q, k and v."""

    input_norm: Norm
    query_key_value: Linear
    dense: Linear
    post_attention_norm: Norm
    up: Linear  # dense_h_to_4h
    down: Linear  # dense_4h_to_h


@dataclass(frozen=True)
class HeadWeights:
    """The final layer norm and lm_head ``weight`` [vocab, hidden], fp32, without bias."""

    norm: Norm
    weight: Array


def block_rounded_to_half(block: BlockWeights) -> BlockWeights:
    """The block with its linear layers rounded to the nearest fp16 value; norms stay fp32.

    MNN's converter cuts fp32 to fp16 towards zero (measured), twice the error of rounding; what is
    fp16 already it keeps exactly. Raises OverflowError for values beyond fp16.
    """
    return BlockWeights(
        input_norm=block.input_norm,
        query_key_value=_linear_rounded(block.query_key_value),
        dense=_linear_rounded(block.dense),
        post_attention_norm=block.post_attention_norm,
        up=_linear_rounded(block.up),
        down=_linear_rounded(block.down),
    )


def head_rounded_to_half(head: HeadWeights) -> HeadWeights:
    """As `block_rounded_to_half`, for lm_head."""
    return HeadWeights(head.norm, rounded_to_half(head.weight))


def bfloat16_bits(values: Array) -> npt.NDArray[np.uint16]:
    """The bfloat16 bit patterns nearest to finite fp32 ``values``, ties to even."""
    bits = values.view(np.uint32)
    # Adding 0x7FFF, plus one where the kept part is odd, carries exactly when rounding goes up.
    odd = (bits >> 16) & 1
    return ((bits + 0x7FFF + odd) >> 16).astype(np.uint16)


def rounded_to_half(values: Array) -> Array:
    """The nearest fp16 values, in place where ``values`` may be written: lm_head takes gigabytes.

    Raises OverflowError for values beyond fp16.
    """
    result = np.ascontiguousarray(values)
    if not result.flags.writeable:
        result = result.copy()
    flat = result.reshape(-1)
    for start in range(0, flat.size, _VALUES_AT_ONCE):
        some = flat[start : start + _VALUES_AT_ONCE]
        if float(np.abs(some).max()) > float(np.finfo(np.float16).max):
            raise OverflowError("a weight is beyond 65504, the largest fp16 value")
        some[:] = some.astype(np.float16)
    return result


def _linear_rounded(linear: Linear) -> Linear:
    return Linear(rounded_to_half(linear.weight), rounded_to_half(linear.bias))
