"""From a request of OpenAI's API to a question for the engine, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.chat_format import ChatFormat
from runtime.sampling import Sampling
from runtime.service.errors import ApiError
from runtime.service.requests import ChatRequest, CompletionRequest, SamplingRequest
from runtime.service.running import Question, random_seed
from runtime.service.served_model import ServedModel
from runtime.service.settings import ServiceSettings
from scheduler.errors import UserInputError

_COMPLETION_TOKENS = 16  # what /v1/completions gives where nothing is said, as OpenAI's does


def chat_question(served: ServedModel, request: ChatRequest, settings: ServiceSettings) -> Question:
    """A chat as a question; raises ApiError 400 for what the model or its context cannot take."""
    check_model(served, request.model)
    if len(request.messages) > settings.max_messages:
        raise ApiError(
            400,
            f"messages has {len(request.messages)} entries; this server takes"
            f" {settings.max_messages}.",
            param="messages",
        )
    messages = [
        {"role": "system" if one.role == "developer" else one.role, "content": one.text}
        for one in request.messages
    ]
    try:
        prompt_ids = served.chat_format.prompt_ids(messages)
    except UserInputError as error:
        raise ApiError(400, str(error), param="messages") from None
    top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    wanted = request.max_completion_tokens or request.max_tokens
    return _question(served, request, prompt_ids, top_logprobs, wanted, served.chat_format)


def completion_question(served: ServedModel, request: CompletionRequest) -> Question:
    """A text or token ids to continue, as a question."""
    check_model(served, request.model)
    if isinstance(request.prompt, str):
        message = {"role": "user", "content": request.prompt}
        prompt_ids: Sequence[int] = served.completion_format.prompt_ids([message])
    else:
        prompt_ids = request.prompt
        check_ids(served, prompt_ids, "prompt")
    wanted = _COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    return _question(
        served, request, prompt_ids, request.logprobs, wanted, served.completion_format
    )


def check_model(served: ServedModel, name: str | None) -> None:
    """Raise ApiError 404 for another model than the one that is served."""
    if name is not None and name != served.plan.model:
        raise ApiError(
            404,
            f"the model {name!r} does not exist here; this server has {served.plan.model!r}.",
            param="model",
            code="model_not_found",
        )


def check_ids(served: ServedModel, ids: Sequence[int], param: str) -> None:
    """Raise ApiError 400 for a token id that the model does not have."""
    size = served.bundle.manifest.geometry.vocab_size
    for token in ids:
        if not 0 <= token < size:
            raise ApiError(
                400,
                f"{param} names token {token}; {served.plan.model} has tokens 0 to {size - 1}.",
                param=param,
            )


def _question(
    served: ServedModel,
    request: SamplingRequest,
    prompt_ids: Sequence[int],
    top_logprobs: int | None,
    wanted: int | None,
    text_format: ChatFormat,
) -> Question:
    room = served.context_tokens - len(prompt_ids)
    over = (wanted or 1) - room
    if over > 0:
        asked = f" and {wanted} of answer" if wanted else ""
        raise ApiError(
            400,
            f"the context holds {served.context_tokens} tokens; the request has"
            f" {len(prompt_ids)} of prompt{asked}, {over} too many.",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
            code="context_length_exceeded",
        )
    return Question(
        prompt_ids=prompt_ids,
        sampling=_sampling(served, request, top_logprobs),
        max_new_tokens=wanted or room,
        stops=request.stops,
        choices=request.n or 1,
        text_format=text_format,
    )


def _sampling(served: ServedModel, request: SamplingRequest, top_logprobs: int | None) -> Sampling:
    default_temperature = 0.0 if served.greedy_only else 1.0
    temperature = default_temperature if request.temperature is None else request.temperature
    seed = random_seed() if request.seed is None else request.seed % (1 << 64)
    return Sampling(
        temperature=temperature,
        top_k=request.top_k or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=seed,
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=_logit_bias(served, request),
        top_logprobs=top_logprobs,
    )


def _logit_bias(served: ServedModel, request: SamplingRequest) -> tuple[tuple[int, float], ...]:
    biases = []
    for text, bias in (request.logit_bias or {}).items():
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ApiError(
                400, f"logit_bias names {text!r}; expected token ids.", param="logit_bias"
            )
        biases.append((int(text), bias))
    check_ids(served, [token for token, _ in biases], "logit_bias")
    return tuple(biases)
