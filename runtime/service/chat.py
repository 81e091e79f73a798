"""/v1/chat/completions: messages in, one or several answers out, whole or streamed."""

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
from runtime.service.questions import chat_question
from runtime.service.requests import ChatRequest
from runtime.service.responses import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatResponse,
    Delta,
)
from runtime.service.running import Ended, Question, Running
from runtime.service.shapes import chat_logprobs, timings_of, usage_of
from runtime.service.state import Service, answers, service_of

router = APIRouter(tags=["answers"])


@dataclass(frozen=True)
class _Chat:
    """One request on its way."""

    service: Service
    request: ChatRequest
    question: Question
    running: Running
    id: str
    created: int

    def chunk(self, **fields: object) -> bytes:
        served = self.service.served
        document = {
            "id": self.id,
            "created": self.created,
            "model": served.plan.model,
            "system_fingerprint": served.fingerprint,
            **fields,
        }
        return event(ChatChunk.model_validate(document))


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    responses=answers("chat.completion.chunk"),
)
async def chat_completions(
    request: ChatRequest, http: Request, service: Annotated[Service, Depends(service_of)]
) -> Response | ChatResponse | None:
    """Answer a conversation."""
    served = service.served
    served.engine()
    question = await asyncio.to_thread(chat_question, served, request, service.settings)
    running = Running(served, service.metrics, question, service.settings.request_seconds)
    chat = _Chat(
        service,
        request,
        question,
        running,
        f"chatcmpl-{secrets.token_hex(12)}",
        int(time.time()),
    )
    if request.stream:
        return EventStream(_events(chat), running.close)
    answer = await while_connected(http, _whole(chat), running.close)
    return answer or Response(status_code=499)


async def _events(chat: _Chat) -> AsyncIterator[bytes]:
    served = chat.service.served
    ends = []
    begun: set[int] = set()
    try:
        async for one in chat.running.events(chat.service.settings.keep_alive_seconds):
            if one is None:
                yield KEEP_ALIVE
                continue
            index, part = one
            if index not in begun:
                begun.add(index)
                choice = ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))
                yield chat.chunk(choices=[choice])
            if isinstance(part, Ended):
                ends.append(part)
                choice = ChatChunkChoice(
                    index=index, delta=Delta(), finish_reason=part.finish_reason
                )
                yield chat.chunk(choices=[choice], timings=timings_of(served.launches, part))
                continue
            logprobs = chat_logprobs(served.chat_format.tokenizer, part.logprobs)
            choice = ChatChunkChoice(
                index=index,
                delta=Delta(content=part.text),
                logprobs=logprobs if chat.request.logprobs else None,
            )
            yield chat.chunk(choices=[choice])
    except Exception as error:  # the status is sent; the stream says it instead
        yield event(api_error_of(error).body)
        return
    if chat.request.include_usage:
        usage = usage_of(len(chat.question.prompt_ids), ends)
        yield chat.chunk(choices=[], usage=usage)
    yield DONE


async def _whole(chat: _Chat) -> ChatResponse:
    served = chat.service.served
    pieces: list[list[Piece]] = [[] for _ in range(chat.question.choices)]
    ends: dict[int, Ended] = {}
    async for one in chat.running.events(chat.service.settings.keep_alive_seconds):
        if one is None:
            continue
        index, part = one
        if isinstance(part, Ended):
            ends[index] = part
        else:
            pieces[index].append(part)
    choices = []
    for index, parts in enumerate(pieces):
        logprobs = None
        if chat.request.logprobs:
            tokens = [token for part in parts for token in part.logprobs]
            logprobs = chat_logprobs(served.chat_format.tokenizer, tokens)
        choices.append(
            ChatChoice(
                index=index,
                message=AnswerMessage(content="".join(part.text for part in parts)),
                logprobs=logprobs,
                finish_reason=ends[index].finish_reason,
            )
        )
    return ChatResponse(
        id=chat.id,
        created=chat.created,
        model=served.plan.model,
        system_fingerprint=served.fingerprint,
        choices=choices,
        usage=usage_of(len(chat.question.prompt_ids), ends.values()),
        timings=[timings_of(served.launches, ends[index]) for index in range(len(pieces))],
    )
