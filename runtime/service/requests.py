"""Requests of OpenAI's API: what is understood, what is refused by name, and the bounds of both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_CHOICES = 8
_MAX_STOPS = 16
_MAX_BIASES = 1024
_MAX_TEXT = 16 << 20

Text = Annotated[str, Field(max_length=_MAX_TEXT)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]


def _refuse(value: Any) -> None:
    """Known to OpenAI's API, not to this server; null and what means "nothing" pass."""
    if value not in (None, False, [], "auto", "none", "", {"type": "text"}, ["text"]):
        raise PydanticCustomError("unsupported", "this server does not support this parameter")


Unsupported = Annotated[
    Any,
    AfterValidator(_refuse),
    Field(default=None, description="Not supported: leave it out.", json_schema_extra={"not": {}}),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Request):
    """What a stream says beside the answer."""

    include_usage: bool = Field(
        default=False, description="a last chunk without choices states the token counts"
    )


class SamplingRequest(_Request):
    """Parameters that every kind of answer knows."""

    model: str | None = Field(
        default=None, max_length=200, description="the one that /v1/models lists; may be left out"
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=1 << 31, description="at most so many tokens of answer"
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="0 is greedy. Default: 1, or 0 where the model returns no logits",
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1 << 31, description="0 is off")
    min_p: float | None = Field(default=None, ge=0, le=1, description="0 is off")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=_MAX_BIASES, description="token id -> what its logit gains"
    )
    seed: int | None = Field(
        default=None,
        ge=-(1 << 63),
        lt=1 << 63,
        description="the same seed and request give the same answer; without it a random one",
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=_MAX_STOPS)] | None = Field(
        default=None, description="texts that end the answer and are not part of it"
    )
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="answers to give")
    stream: bool | None = Field(default=None, description="send events as tokens come")
    stream_options: StreamOptions | None = None
    user: str | None = Field(
        default=None, max_length=512, description="accepted, and neither used nor logged"
    )

    @model_validator(mode="after")
    def _options_belong_to_streams(self) -> SamplingRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(_Request):
    """Text inside a message; pictures and sound are not understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Request):
    """One message; what a server answered may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: Unsupported
    refusal: Unsupported
    tool_calls: Unsupported
    function_call: Unsupported
    audio: Unsupported
    annotations: Unsupported

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(SamplingRequest):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: Unsupported
    tools: Unsupported
    tool_choice: Unsupported
    parallel_tool_calls: Unsupported
    functions: Unsupported
    function_call: Unsupported
    modalities: Unsupported
    audio: Unsupported
    prediction: Unsupported
    reasoning_effort: Unsupported
    verbosity: Unsupported
    web_search_options: Unsupported
    metadata: Unsupported
    store: Unsupported
    service_tier: Unsupported
    prompt_cache_key: Unsupported
    safety_identifier: Unsupported

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs: true")
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self


class CompletionRequest(SamplingRequest):
    """The body of /v1/completions: a text, or token ids, to continue."""

    prompt: (
        Text
        | Annotated[
            list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1, max_length=1 << 20)
        ]
    )
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: Unsupported
    suffix: Unsupported
    best_of: Unsupported
