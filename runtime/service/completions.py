"""/v1/completions: the older API, a text to continue."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from runtime.service.answer_text import Piece
from runtime.service.errors import api_error_of
from runtime.service.event_stream import DONE, KEEP_ALIVE, EventStream, event, while_connected
from runtime.service.questions import completion_question
from runtime.service.requests import CompletionRequest
from runtime.service.responses import CompletionChoice, CompletionLogprobs, CompletionResponse
from runtime.service.running import Ended, Question, Running
from runtime.service.shapes import completion_logprobs, timings_of, usage_of
from runtime.service.state import Service, answers, service_of

router = APIRouter(tags=["answers"])


@dataclass(frozen=True)
class _Completion:
    """One request on its way."""

    service: Service
    request: CompletionRequest
    question: Question
    running: Running
    id: str
    created: int

    def document(self, choices: list[CompletionChoice], ends: list[Ended]) -> CompletionResponse:
        served = self.service.served
        return CompletionResponse(
            id=self.id,
            created=self.created,
            model=served.plan.model,
            system_fingerprint=served.fingerprint,
            choices=choices,
            usage=usage_of(len(self.question.prompt_ids), ends) if ends else None,
            timings=[timings_of(served.launches, end) for end in ends] or None,
        )

    def logprobs(self, pieces: list[Piece]) -> CompletionLogprobs | None:
        if self.request.logprobs is None:
            return None
        return completion_logprobs(self.service.served.completion_format.tokenizer, pieces)


@router.post(
    "/v1/completions",
    response_model=CompletionResponse,
    responses=answers("text_completion"),
)
async def completions(
    request: CompletionRequest, http: Request, service: Annotated[Service, Depends(service_of)]
) -> Response | CompletionResponse | None:
    """Continue a text."""
    served = service.served
    served.engine()
    question = await asyncio.to_thread(completion_question, served, request)
    running = Running(served, service.metrics, question, service.settings.request_seconds)
    number = f"cmpl-{secrets.token_hex(12)}"
    completion = _Completion(service, request, question, running, number, int(time.time()))
    if request.stream:
        return EventStream(_events(completion), running.close)
    answer = await while_connected(http, _whole(completion), running.close)
    return answer or Response(status_code=499)


async def _events(completion: _Completion) -> AsyncIterator[bytes]:
    ends: list[Ended] = []
    try:
        async for one in completion.running.events(completion.service.settings.keep_alive_seconds):
            if one is None:
                yield KEEP_ALIVE
                continue
            index, part = one
            if isinstance(part, Ended):
                ends.append(part)
                choice = CompletionChoice(index=index, text="", finish_reason=part.finish_reason)
            else:
                choice = CompletionChoice(
                    index=index, text=part.text, logprobs=completion.logprobs([part])
                )
            yield event(completion.document([choice], []))
    except Exception as error:  # the status is sent; the stream says it instead
        yield event(api_error_of(error).body)
        return
    if completion.request.include_usage:
        yield event(completion.document([], ends))
    yield DONE


async def _whole(completion: _Completion) -> CompletionResponse:
    pieces: list[list[Piece]] = [[] for _ in range(completion.question.choices)]
    ends: dict[int, Ended] = {}
    async for one in completion.running.events(completion.service.settings.keep_alive_seconds):
        if one is None:
            continue
        index, part = one
        if isinstance(part, Ended):
            ends[index] = part
        else:
            pieces[index].append(part)
    choices = [
        CompletionChoice(
            index=index,
            text="".join(part.text for part in parts),
            logprobs=completion.logprobs(parts),
            finish_reason=ends[index].finish_reason,
        )
        for index, parts in enumerate(pieces)
    ]
    return completion.document(choices, [ends[index] for index in range(len(pieces))])
