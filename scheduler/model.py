"""ModelSpec: the geometry of a decoder, and from it the parameters and bytes of every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from scheduler.errors import UserInputError

StoredPrecision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""How a file keeps matrices; norms and biases are fp32 in every file."""

WEIGHT_BLOCKS = (128, 64, 32)
"""Block sizes tried for int4, coarsest first: weights along the inner width that share a scale."""

LARGEST: Mapping[str, int] = {
    "hidden_size": 1 << 17,
    "ffn_size": 1 << 20,
    "blocks": 1024,
    "heads": 1024,
    "kv_heads": 1024,
    "head_dim": 1 << 13,
    "vocab_size": 1 << 24,
    "max_context": 1 << 30,
}
"""Sizes beyond which a file is taken to be wrong: several times those of any published decoder."""

_BITS_PER_WEIGHT: Mapping[StoredPrecision, int] = {
    "fp32": 32,
    "fp16": 16,
    "bf16": 16,
    "int8": 8,
    "int4": 4,
}
# Asymmetric quantisation keeps a scale and a zero point for every group. MNN 3.6.1 writes both in
# fp16: 4 bytes per row at int8 and 4 bytes per block at int4, measured on the files it converts.
_SCALE_BYTES = 4
_FP32_BYTES = 4
_BF16_BYTES = 2


@dataclass(frozen=True)
class ReserveRule:
    """Published constants of the `reserve` policy for one model: blocks = (free - reserve) / block.

    `block_bytes` gives the bytes that the rule counts for a block at each precision, `source` where
    the constants come from.
    """

    reserve_bytes: int
    block_bytes: Mapping[str, int] = field(hash=False)
    source: str


@dataclass(frozen=True)
class ModelSpec:
    """Geometry of a dense decoder; sizes in elements.

    `reserve_rule` holds a profile's own constants for the `reserve` policy, where its authors
    published them.
    """

    name: str
    family: str
    hidden_size: int
    ffn_size: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    norm: Literal["layer", "rms"]
    gated_mlp: bool
    qkv_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    norms_per_block: int
    tied_embeddings: bool
    qk_norm: bool = False
    lm_head_bias: bool = False
    reserve_rule: ReserveRule | None = None


class Matrix(NamedTuple):
    """A weight matrix as stored: output rows, inner width, and whether a bias follows."""

    rows: int
    inner: int
    bias: bool


@lru_cache(maxsize=256)
def block_matrices(spec: ModelSpec) -> tuple[Matrix, ...]:
    """List the weight matrices of one block: fused query/key/value, attention output, MLP."""
    query = spec.heads * spec.head_dim
    key_value = 2 * spec.kv_heads * spec.head_dim
    return (
        Matrix(query + key_value, spec.hidden_size, spec.qkv_bias),
        Matrix(spec.hidden_size, query, spec.attention_output_bias),
        Matrix(spec.ffn_size * (2 if spec.gated_mlp else 1), spec.hidden_size, spec.mlp_bias),
        Matrix(spec.hidden_size, spec.ffn_size, spec.mlp_bias),
    )


def lm_head_matrix(spec: ModelSpec) -> Matrix:
    """Give the matrix that turns the last hidden state into logits."""
    return Matrix(spec.vocab_size, spec.hidden_size, spec.lm_head_bias)


def block_parameters(spec: ModelSpec) -> int:
    """Count the parameters of one block: matrices, biases and norms."""
    return _weights(block_matrices(spec)) + _block_vectors(spec)


def lm_head_parameters(spec: ModelSpec) -> int:
    """Count the parameters of the lm_head part: final norm, head matrix and its bias."""
    return _weights((lm_head_matrix(spec),)) + _lm_head_vectors(spec)


def embedding_parameters(spec: ModelSpec) -> int:
    """Count the parameters of the word embedding."""
    return spec.vocab_size * spec.hidden_size


def total_parameters(spec: ModelSpec) -> int:
    """Count the parameters of the whole model; a head tied to the embedding counts once."""
    total = spec.blocks * block_parameters(spec) + lm_head_parameters(spec)
    return total if spec.tied_embeddings else total + embedding_parameters(spec)


@lru_cache(maxsize=256)
def default_weight_block(spec: ModelSpec) -> int | None:
    """Pick the int4 block size of a model: the largest of 128, 64, 32 that divides every width.

    None where none of them does: then each output row has one scale, as at int8.
    """
    widths = [matrix.inner for matrix in (*block_matrices(spec), lm_head_matrix(spec))]
    return next((size for size in WEIGHT_BLOCKS if all(w % size == 0 for w in widths)), None)


@lru_cache(maxsize=1024)
def block_bytes(
    spec: ModelSpec, precision: StoredPrecision, weight_block: int | None = None
) -> int:
    """Compute the bytes of one block in a file, without the graph around it (about 1 MB).

    `weight_block` is the number of weights that share a scale; by default one scale per output row
    at int8 and `default_weight_block` at int4. What a device holds may be more than the file.
    Raises UserInputError for a `weight_block` that does not divide an inner width.
    """
    return _part_bytes(spec, block_matrices(spec), _block_vectors(spec), precision, weight_block)


def lm_head_bytes(
    spec: ModelSpec, precision: StoredPrecision, weight_block: int | None = None
) -> int:
    """Compute the bytes of lm_head (norm and matrix) in a file; arguments as `block_bytes`."""
    matrices = (lm_head_matrix(spec),)
    return _part_bytes(spec, matrices, _lm_head_vectors(spec), precision, weight_block)


def embedding_bytes(spec: ModelSpec) -> int:
    """Compute the bytes of the embedding file: bf16 rows [vocab_size, hidden_size]."""
    return embedding_parameters(spec) * _BF16_BYTES


def block_kv_bytes_per_token(spec: ModelSpec, bytes_per_value: int = _FP32_BYTES) -> int:
    """Compute the KV cache bytes of one token in one block: a key and a value per KV head."""
    return 2 * spec.kv_heads * spec.head_dim * bytes_per_value


def kv_bytes_per_token(spec: ModelSpec, bytes_per_value: int = _FP32_BYTES) -> int:
    """Compute the KV cache bytes that one token takes in all blocks."""
    return spec.blocks * block_kv_bytes_per_token(spec, bytes_per_value)


def block_flops_per_token(spec: ModelSpec, context: int) -> int:
    """Count floating-point operations of one block for one token that sees `context` tokens.

    A multiply and an add for each matrix weight, and the same for each query head's scores and
    weighted values (2 x 2 x context x heads x head_dim); norms and activations are left out.
    """
    attention = 4 * context * spec.heads * spec.head_dim
    return 2 * _weights(block_matrices(spec)) + attention


def lm_head_flops(spec: ModelSpec) -> int:
    """Count floating-point operations of one row of logits."""
    return 2 * _weights((lm_head_matrix(spec),))


def flops_per_token(spec: ModelSpec, context: int) -> int:
    """Count floating-point operations of one decoded token that sees `context`, with logits."""
    return spec.blocks * block_flops_per_token(spec, context) + lm_head_flops(spec)


def _weights(matrices: tuple[Matrix, ...]) -> int:
    return sum(matrix.rows * matrix.inner for matrix in matrices)


def _norm_parameters(spec: ModelSpec, width: int) -> int:
    return width * (2 if spec.norm == "layer" else 1)


def _block_vectors(spec: ModelSpec) -> int:
    biases = sum(matrix.rows for matrix in block_matrices(spec) if matrix.bias)
    norms = spec.norms_per_block * _norm_parameters(spec, spec.hidden_size)
    return biases + norms + (2 * _norm_parameters(spec, spec.head_dim) if spec.qk_norm else 0)


def _lm_head_vectors(spec: ModelSpec) -> int:
    bias = spec.vocab_size if spec.lm_head_bias else 0
    return bias + _norm_parameters(spec, spec.hidden_size)


def _part_bytes(
    spec: ModelSpec,
    matrices: tuple[Matrix, ...],
    vectors: int,
    precision: StoredPrecision,
    weight_block: int | None,
) -> int:
    bits = _BITS_PER_WEIGHT[precision]
    if weight_block is None and precision == "int4":
        weight_block = default_weight_block(spec)
    total = vectors * _FP32_BYTES
    for rows, inner, _ in matrices:
        total += -(-rows * inner * bits // 8)
        if bits <= 8:
            group = inner if weight_block is None else weight_block
            if group < 1 or inner % group:
                raise UserInputError(
                    f"Weight block {group} does not divide a matrix of inner width {inner} in"
                    f" {spec.name}; use a divisor such as {default_weight_block(spec) or inner}."
                )
            total += rows * (inner // group) * _SCALE_BYTES
    return total
