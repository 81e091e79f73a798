"""The answers to one request while they run: a slot for each, their pieces, their end."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from runtime.article.greedy import require_greedy
from runtime.chat_format import ChatFormat
from runtime.sampling import Sampling
from runtime.service.admission import Ticket
from runtime.service.answer_text import AnswerText, Piece
from runtime.service.errors import ApiError
from runtime.service.metrics import Metrics
from runtime.service.responses import FinishReason
from runtime.service.served_model import ServedModel
from runtime.service.token_stream import TokenStream
from runtime.stream import Generation
from scheduler.errors import GlmPlanError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A request in the engine's words, for every kind of answer."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    max_new_tokens: int
    stops: tuple[str, ...]
    choices: int
    text_format: ChatFormat


@dataclass
class Ended:
    """How one answer ended, and what it measured; seconds."""

    finish_reason: FinishReason
    tokens: int
    generation: Generation
    queue_seconds: float
    first_token_seconds: float | None


Event = tuple[int, Piece | Ended]


class Running:
    """Asks the engine for every choice of a question, each in a slot of its own.

    Raises ApiError at once: 429 for a full queue, 503 without an engine. `close` must be called; it
    cancels what still runs.
    """

    def __init__(
        self, served: ServedModel, metrics: Metrics, question: Question, timeout_seconds: float
    ) -> None:
        served.engine()
        require_greedy(served.bundle, question.sampling)
        self._served = served
        self._metrics = metrics
        self._question = question
        self._started = time.perf_counter()
        self._deadline = self._started + timeout_seconds
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        tickets = served.admission.enter(question.choices)
        self._tasks = [
            asyncio.create_task(self._answer(index, ticket)) for index, ticket in enumerate(tickets)
        ]
        for task, ticket in zip(self._tasks, tickets, strict=True):
            task.add_done_callback(functools.partial(_abandon, ticket))

    async def events(self, tick_seconds: float) -> AsyncIterator[Event | None]:
        """Yield (choice, piece or end) until every choice ended; None after a silent tick.

        Raises ApiError 504 when the time is up, and what a choice raised.
        """
        left = len(self._tasks)
        getter = asyncio.ensure_future(self._events.get())
        try:
            while left:
                remaining = self._deadline - time.perf_counter()
                if remaining <= 0:
                    raise ApiError(
                        504, "the answer took longer than this server allows.", code="timeout"
                    )
                done, _ = await asyncio.wait({getter}, timeout=min(tick_seconds, remaining))
                if not done:
                    yield None
                    continue
                event = getter.result()
                getter = asyncio.ensure_future(self._events.get())
                if isinstance(event, BaseException):
                    raise event
                left -= isinstance(event[1], Ended)
                yield event
        finally:
            getter.cancel()

    def close(self) -> None:
        """Cancel what still runs; its slots are free within one token."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, index: int, ticket: Ticket) -> None:
        try:
            await self._in_slot(index, ticket)
        except Exception as error:
            if not isinstance(error, ApiError | GlmPlanError):
                _log.exception("an answer failed")
            self._events.put_nowait(error)

    async def _in_slot(self, index: int, ticket: Ticket) -> None:
        question = self._question
        await ticket.turn()
        queue_seconds = time.perf_counter() - self._started
        sampling = question.sampling
        sampling = replace(sampling, seed=(sampling.seed + index) % (1 << 64))
        text = AnswerText(question.text_format.answer_stream(), question.stops)
        stream = TokenStream(
            self._served.engine(),
            question.prompt_ids,
            sampling,
            question.max_new_tokens,
            ticket.leave,
        )
        ticket.hold()  # from here on the engine decides when the slot is free
        first_token_seconds, last = None, self._started
        tokens, reason = 0, "cancelled"
        try:
            async for token, logprobs in stream.tokens():
                now = time.perf_counter()
                if first_token_seconds is None:
                    first_token_seconds = now - self._started
                    self._metrics.first_token.observe(first_token_seconds)
                else:
                    self._metrics.between_tokens.observe(now - last)
                last = now
                tokens += 1
                if stream.generation.decode:
                    self._served.last_step = stream.generation.decode[-1]
                self._put(index, text.push(token, logprobs))
                if text.stopped:
                    break
            self._put(index, text.finish())
            if text.stopped:
                stream.cancel()
                await stream.ended()
            reason = "stop" if text.stopped else str(stream.generation.finish_reason)
            if reason == "cancelled":
                raise ApiError(503, "the server is ending.", code="shutting_down")
            ended = Ended(
                "length" if reason == "length" else "stop",
                tokens,
                stream.generation,
                queue_seconds,
                first_token_seconds,
            )
            self._events.put_nowait((index, ended))
        finally:
            stream.cancel()
            self._metrics.count_answer(stream.generation, tokens, reason, self._served.launches)

    def _put(self, index: int, piece: Piece | None) -> None:
        if piece is not None:
            self._events.put_nowait((index, piece))


def random_seed() -> int:
    """A seed for requests that name none."""
    return random.SystemRandom().getrandbits(63)


def _abandon(ticket: Ticket, _task: asyncio.Task[None]) -> None:
    ticket.abandon()
