"""Slots: how the runtime divides prompts and requests into forwards, which planning must know."""

from __future__ import annotations

GROUP_ROWS = 4
"""Requests that are decoded together at most; more slots make more groups."""

PREFILL_CHUNK = 128
"""Tokens of a causal prompt that are computed at once; ChatGLM-6B's prompts are computed whole."""

KV_FIRST_STEP = 64
"""Tokens of the smallest KV cache; capacity doubles from here, so that shapes change rarely."""

KV_LAST_STEP = 256
"""Tokens by which a KV cache grows once doubling would add more: attention reads all of them."""

WHOLE_PROMPT_FAMILY = "chatglm"
"""The family whose tokens see the prompt behind them, so that it cannot be divided."""


def kv_capacity(context: int) -> int:
    """Round a context up to the size its KV cache grows to: 64, 128, 256, 512, 768, ... tokens."""
    capacity = KV_FIRST_STEP
    while capacity < min(context, KV_LAST_STEP):
        capacity *= 2
    return capacity if context <= capacity else -(-context // KV_LAST_STEP) * KV_LAST_STEP


def smaller_capacity(capacity: int) -> int:
    """The capacity from which a cache grows to this one; 0 where it is the smallest."""
    if capacity == KV_FIRST_STEP:
        return 0
    return capacity // 2 if capacity <= KV_LAST_STEP else capacity - KV_LAST_STEP


def decoded_rows(slots: int) -> int:
    """Rows of all decode steps that give each of these slots a token, and of their KV caches.

    Two and four rows are computed at a time, and one where there is one slot: see
    `runtime.batching`.
    """
    return 1 if slots == 1 else -(-slots // 2) * 2


def decode_groups(slots: int) -> int:
    """Decode steps that give each of these slots a token."""
    return -(-slots // GROUP_ROWS)


def prefill_forwards(family: str, tokens: int) -> tuple[tuple[int, int], ...]:
    """Forwards of a prompt in order: how many tokens are new, and how many are cached before."""
    if family == WHOLE_PROMPT_FAMILY:
        return ((tokens, 0),)
    starts = range(0, tokens, PREFILL_CHUNK)
    return tuple((min(PREFILL_CHUNK, tokens - start), start) for start in starts)


def largest_prefill(family: str, context: int) -> tuple[int, int]:
    """The largest of the forwards of all prompts that fit the context, as `prefill_forwards`."""
    if family == WHOLE_PROMPT_FAMILY:
        return context, 0
    return min(PREFILL_CHUNK, context), (context - 1) // PREFILL_CHUNK * PREFILL_CHUNK
