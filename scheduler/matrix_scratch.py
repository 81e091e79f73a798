"""Scratch memory of MNN's fp32 matrix products on x86, computed as MNN 3.6.1 itself does.

MNN multiplies tokens [tokens, inner] by a matrix [rows, inner] with Strassen's method (Boyer,
Dumas, Pernet and Zhou 2009) in its `Convolution1x1Strassen` and `StrassenMatmulComputor`, from
whose source the sizes here are taken. The work is divided among threads by tokens where there are
many, else by rows. A product allocates the scratch of all threads and of the whole recursion before
it frees any, so the sum counts: it changes in steps, and may shrink with more tokens or threads.
Checked against what MNN 3.6.1 allocates with 1 to 12 threads: equal to 0.01 MiB.
"""

from __future__ import annotations

from functools import lru_cache

_TILE = 24  # tokens that the AVX2 kernel multiplies at once
_PACK = 8  # values that lie together in a tensor
_ROW_UNIT = 4  # rows that lie together in a matrix
_VALUE_BYTES = 4
_ALIGNMENT = 32
_DEEPEST = 5
_ADDITION_COST = 1.5  # MNN's penalty on additions, which Strassen's method trades for products
_CACHED_VALUES = 32768  # values of a tile and a row unit that are multiplied in one pass
_TILES_PER_THREAD = 8  # fewer are divided by rows instead
_STEP = 64


@lru_cache(maxsize=1 << 12)
def most_product_bytes(context: int, inner: int, rows: int, kept_values: int, threads: int) -> int:
    """Compute the most that a product takes for any prompt up to the context.

    Prompts of every 64th length are tried, of 16 lengths per doubling from 2,048 tokens on.
    `kept_values` is the number of fp32 values per token that exist beside the scratch meanwhile.
    """
    most = tokens = 0
    while tokens < context:
        tokens += max(_STEP, (1 << tokens.bit_length()) >> 5)
        scratch_bytes: int = product_bytes(tokens, inner, rows, threads)
        most = max(most, scratch_bytes + tokens * kept_values * _VALUE_BYTES)
    return most


@lru_cache(maxsize=1 << 16)
def product_bytes(tokens: int, inner: int, rows: int, threads: int) -> int:
    """Compute the scratch of one product of fp32 hidden states with a matrix [rows, inner]."""
    packs = -(-rows // _PACK)
    if tokens > _TILE * _TILES_PER_THREAD * threads and tokens > packs:
        parts = [(share, rows) for share in _shares(tokens, threads)]
    else:
        parts = [(tokens, share * _PACK) for share in _shares(packs, threads)]
    return sum(_strassen(share, inner, wide, 0) for share, wide in parts)


def _shares(amount: int, threads: int) -> list[int]:
    share = -(-amount // threads)
    return [min(share, amount - start) for start in range(0, amount, share)]


@lru_cache(maxsize=1 << 16)
def _strassen(tokens: int, inner: int, rows: int, depth: int) -> int:
    half_tokens = tokens // _TILE // 2 * _TILE
    half_rows = rows // _PACK // 2 * _PACK
    if depth >= _DEEPEST or not half_tokens or not half_rows or inner % (2 * _PACK):
        return _plain(tokens, inner, rows)
    half_inner = inner // 2
    saved = (tokens // _TILE) * (_TILE * (half_rows + half_inner) + half_inner * half_rows)
    added = 4 * half_tokens * half_inner + 4 * half_inner * half_rows + 7 * half_tokens * half_rows
    if saved <= _ADDITION_COST * added:
        return _plain(tokens, inner, rows)
    quarter_of_matrix = _aligned(half_rows * half_inner * _VALUE_BYTES)
    quarter_of_states = _aligned(max(half_inner, half_rows) * half_tokens * _VALUE_BYTES)
    total = quarter_of_matrix + quarter_of_states
    total += 7 * _strassen(half_tokens, half_inner, half_rows, depth + 1)
    if rest := rows - 2 * half_rows:
        total += _plain(2 * half_tokens, inner, rest)
    if rest := tokens - 2 * half_tokens:
        total += _plain(rest, inner, rows)
    return total


def _plain(tokens: int, inner: int, rows: int) -> int:
    """Tiles of every pass along the inner width; from two passes on also a second product."""
    most = _CACHED_VALUES // (min(_TILE, tokens) + _ROW_UNIT)
    if inner <= most:
        return _aligned(inner * _TILE * _VALUE_BYTES)
    most = most // _PACK * _PACK
    passes = (min(most, inner - start) for start in range(0, inner, most))
    tiles = sum(_aligned(width * _TILE * _VALUE_BYTES) for width in passes)
    return tiles + _aligned(tokens * -(-rows // _PACK) * _PACK * _VALUE_BYTES)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
