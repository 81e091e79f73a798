"""Prefill memory: what the blocks of a stage hold beside weights and KV cache over a prompt."""

from __future__ import annotations

from scheduler.matrix_scratch import most_product_bytes
from scheduler.model import ModelSpec, block_kv_bytes_per_token
from scheduler.slots import KV_FIRST_STEP, WHOLE_PROMPT_FAMILY, kv_capacity, largest_prefill

_FP32_BYTES = 4


def prefill_bytes(spec: ModelSpec, context: int, bytes_per_value: int) -> int:
    """Compute what one block holds beside its outputs, over a prompt that fills the context.

    The most of attention and feed-forward at any time, since MNN keeps that one buffer for all
    blocks, and what comes in. MNN 3.6.1 on x86 took 0.87 to 1.00 of the former below 300 tokens at
    int8 and 0.95 to 1.00 above, with 1 to 4 threads, for ChatGLM's blocks and for gated ones with
    grouped queries.
    """
    tokens, cached = largest_prefill(spec.family, context)
    seen = tokens + kv_capacity(cached)
    most = max(_attention_values(spec, seen), _feed_forward_values(spec, seen))
    return (tokens * most + _input_values(spec, context)) * bytes_per_value


def fp32_prefill_bytes(spec: ModelSpec, context: int, threads: int) -> int:
    """Compute `prefill_bytes` on x86 with fp32 weights, whose products need scratch of their own.

    That scratch depends on tokens and threads in steps: `matrix_scratch` computes it as MNN does.
    """
    tokens, _ = largest_prefill(spec.family, context)
    products = max(
        most_product_bytes(tokens, inner, rows, kept, threads)
        for inner, rows, kept in _products(spec)
    )
    inputs = _input_values(spec, context) * _FP32_BYTES
    return max(prefill_bytes(spec, context, _FP32_BYTES), products + inputs)


def _input_values(spec: ModelSpec, context: int) -> int:
    """Hidden states, once more between two blocks, and the mask twice."""
    tokens, cached = largest_prefill(spec.family, context)
    return 2 * tokens * (spec.hidden_size + tokens + kv_capacity(cached))


def _attention_values(spec: ModelSpec, seen: int) -> int:
    """Values per token: scores over `seen` tokens, those of the prompt and of the cache, twice
    (joined, and after softmax), the hidden states and the queries.

    In ChatGLM-6B's block the rotation of both halves keeps more: 11 times the hidden states, or 7.5
    times beside the scores, the scores of the empty step and both rotary tables.
    """
    scores = spec.heads * seen
    if spec.family != WHOLE_PROMPT_FAMILY:
        return 2 * scores + spec.hidden_size + spec.heads * spec.head_dim
    rotating = 11 * spec.hidden_size
    attending = 2 * scores + 15 * spec.hidden_size // 2 + spec.heads * KV_FIRST_STEP
    return max(rotating, attending) + spec.head_dim


def _feed_forward_values(spec: ModelSpec, seen: int) -> int:
    """Values per token: gate, its sigmoid and their product, or what GELU reads and writes.

    They take the place of the scores, one inner width in the place of one; where scores are
    shorter than two inner widths, the last one comes behind them.
    """
    if spec.family == WHOLE_PROMPT_FAMILY:
        return 2 * spec.ffn_size + spec.hidden_size
    scores = spec.heads * seen
    behind = min(2 * scores, 4 * spec.ffn_size) + spec.ffn_size
    return max(3 * spec.ffn_size + 2 * spec.hidden_size, behind)


def _products(spec: ModelSpec) -> tuple[tuple[int, int, int], ...]:
    """Inner width and rows of each product of a block, and values per token that exist meanwhile:
    what it reads and writes, and what was computed before and is read later.

    The graphs have one matrix for query, key and value in ChatGLM-6B's block, three in all others,
    and gate and up apart.
    """
    hidden, ffn = spec.hidden_size, spec.ffn_size
    query, key = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    if spec.family == WHOLE_PROMPT_FAMILY:
        attention = [
            (hidden, query + 2 * key, 2 * hidden + query + 2 * key),
            (query, hidden, query + 2 * hidden),
        ]
    else:
        attention = [
            (hidden, query, hidden + query),
            (hidden, key, hidden + query + 2 * key),
            (query, hidden, query + hidden),
        ]
    before = ffn if spec.gated_mlp else 0
    return (*attention, (hidden, ffn, 2 * hidden + before + ffn), (ffn, hidden, 2 * hidden + ffn))


def block_output_bytes(spec: ModelSpec, blocks: int, context: int, bytes_per_value: int) -> int:
    """Compute hidden states, new keys and values of one forward: modules keep their outputs."""
    tokens, _ = largest_prefill(spec.family, context)
    per_token = block_kv_bytes_per_token(spec, bytes_per_value) + spec.hidden_size * bytes_per_value
    return blocks * tokens * per_token
