"""Measured times and log probabilities in the shapes of the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runtime.launch import StageLaunch
from runtime.logits import TokenLogprobs
from runtime.service.answer_text import Piece
from runtime.service.responses import (
    ChatLogprobs,
    CompletionLogprobs,
    StageTiming,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from runtime.service.running import Ended
from runtime.tokenizer import TextCodec


def usage_of(prompt_tokens: int, ends: Iterable[Ended]) -> Usage:
    """Token counts over all choices; the prompt counts once."""
    completion = sum(end.tokens for end in ends)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion,
        total_tokens=prompt_tokens + completion,
    )


def timings_of(launches: Sequence[StageLaunch], ended: Ended) -> Timings:
    """Where the time of one answer went."""
    generation = ended.generation
    # An answer that ends while blocks move was measured in other stages.
    decoded = [one for one in generation.decode if len(one.stage_seconds) == len(launches)]
    prefill = generation.prefill
    if prefill is not None and len(prefill.stage_seconds) != len(launches):
        prefill = None

    def per_token(seconds: Iterable[float]) -> float | None:
        return sum(seconds) / len(decoded) if decoded else None

    return Timings(
        queue_seconds=ended.queue_seconds,
        time_to_first_token_seconds=ended.first_token_seconds,
        decode_tokens_per_second=generation.decode_tokens_per_second,
        stages=[
            StageTiming(
                device=launch.device,
                backend=launch.backend,
                blocks=launch.block_span,
                prefill_seconds=prefill.stage_seconds[number] if prefill else 0.0,
                decode_seconds_per_token=per_token(one.stage_seconds[number] for one in decoded),
            )
            for number, launch in enumerate(launches)
        ],
        lm_head_seconds_per_token=per_token(one.lm_head_seconds for one in decoded),
        hop_seconds_per_token=per_token(one.hop_seconds for one in decoded),
    )


def chat_logprobs(codec: TextCodec, tokens: Sequence[TokenLogprobs]) -> ChatLogprobs:
    """Log probabilities as chat completions state them."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_top(codec, one.token_id, one.logprob).model_dump(),
                top_logprobs=[_top(codec, token, logprob) for token, logprob in one.top],
            )
            for one in tokens
        ]
    )


def completion_logprobs(codec: TextCodec, pieces: Sequence[Piece]) -> CompletionLogprobs:
    """Log probabilities as the older completions state them."""
    tokens = [one for piece in pieces for one in piece.logprobs]
    return CompletionLogprobs(
        tokens=[_text(codec, one.token_id) for one in tokens],
        token_logprobs=[one.logprob for one in tokens],
        top_logprobs=[
            {_text(codec, token): logprob for token, logprob in reversed(one.top)} for one in tokens
        ],
        text_offset=[at for piece in pieces for at in piece.offsets],
    )


def _top(codec: TextCodec, token: int, logprob: float) -> TopLogprob:
    content = codec.token_bytes(token)
    return TopLogprob(token=_text(codec, token), logprob=logprob, bytes=list(content))


def _text(codec: TextCodec, token: int) -> str:
    return codec.token_bytes(token).decode("utf-8", "replace")
