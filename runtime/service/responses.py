"""Answers of OpenAI's API, and the measured times that this server adds to them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens of a request; with several choices, of all of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class StageTiming(BaseModel):
    """Measured seconds of one stage."""

    device: str
    backend: str
    blocks: str
    prefill_seconds: float
    decode_seconds_per_token: float | None = None


class Timings(BaseModel):
    """Where the time of an answer went, measured; seconds. An extension of OpenAI's API."""

    provenance: Literal["measured"] = "measured"
    queue_seconds: float = Field(description="from the request to a slot")
    time_to_first_token_seconds: float | None = Field(description="from the request")
    decode_tokens_per_second: float | None = Field(description="after the first token")
    stages: list[StageTiming]
    lm_head_seconds_per_token: float | None = None
    hop_seconds_per_token: float | None = None


class TopLogprob(BaseModel):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The token that was chosen, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log probabilities by the model's own logits, before bias, filters and temperature."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatResponse(BaseModel):
    """The body of a finished chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: list[Timings] = Field(description="by choice")


class Delta(BaseModel):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = Field(default=None, description="of the choice that ends here")


class CompletionLogprobs(BaseModel):
    """Log probabilities in the older form: lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class CompletionResponse(BaseModel):
    """The body of a finished completion, and one event of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: list[Timings] | None = None
