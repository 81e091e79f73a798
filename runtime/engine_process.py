"""The process that owns an engine for a service: its start, what it tells, and its end.

It leads a process group of its own, with the workers that it starts: Ctrl-C in the service's
terminal does not reach them, and whoever must end all of them has one name for them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
from multiprocessing.connection import Connection

from runtime import shared_array
from runtime.engine import Engine
from runtime.engine_messages import (
    Ask,
    Born,
    Broken,
    Cancel,
    Close,
    EngineConfig,
    EngineReady,
    Forget,
    FromEngine,
    Logged,
    Moved,
    News,
    PartLoaded,
    Ping,
    Pong,
    Steps,
)
from runtime.launch import StageLaunch
from runtime.logits import TokenLogprobs
from runtime.pipeline import Pipeline
from runtime.placement import Placement
from runtime.stream import Generation, Item, Stream
from runtime.worker import Loaded
from scheduler.errors import EngineError, GlmPlanError, StageFailedError


def engine_main(config: EngineConfig, pipe: Connection) -> None:
    """Load the engine, then answer until the service says `Close` or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # for the service, which drains and then closes
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    loaded = threading.Event()
    threading.Thread(target=_end_if_abandoned, args=(pipe, loaded), daemon=True).start()
    sender = _Sender(pipe)
    logging.basicConfig(handlers=[sender], level=config.log_level)
    with contextlib.suppress(EOFError, OSError):  # the service is gone
        sender.send(Born(shared_array.FAMILY))
        try:
            engine = _load(config, sender)
        except GlmPlanError as error:
            sender.send(_broken(error, fewer_blocks=True))
            return
        with engine:
            loaded.set()
            _EngineServer(engine, pipe, sender).serve()


def _load(config: EngineConfig, sender: _Sender) -> Engine:
    numbers = {launch.device: number for number, launch in enumerate(config.launches)}

    def on_progress(launch: StageLaunch, part: Loaded) -> None:
        sender.send(PartLoaded(numbers[launch.device], part.rss_bytes))

    return Engine(
        config.bundle,
        config.launches,
        config.context_tokens,
        on_progress,
        slots=config.slots,
        cores=None if config.start is None else config.start.cores,
        start_pipeline=config.start or Pipeline,
    )


def _broken(error: GlmPlanError, *, fewer_blocks: bool) -> Broken:
    if not isinstance(error, EngineError):
        return Broken(str(error), None, None, None, False)
    return Broken(str(error), error.device, error.blocks, error.cause, fewer_blocks)


def _end_if_abandoned(pipe: Connection, loaded: threading.Event) -> None:
    """End at once when the service goes while blocks load, which can take minutes.

    It says nothing before it hears that all are loaded, so that whatever comes is the end.
    """
    with contextlib.suppress(OSError):
        pipe.poll(None)
    if loaded.is_set():
        return
    if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Answer:
    """An answer under way, and how much of it was told."""

    def __init__(self, ask: Ask, outbox: queue.SimpleQueue[tuple[_Answer, Item]]) -> None:
        self.number = ask.number
        self.generation = Generation()
        self.stream: Stream | None = None
        self._outbox = outbox
        self._told_steps = 0
        self._told_logprobs = len(ask.replayed_ids)
        self._told_prefill = False

    def take(self, item: Item) -> None:
        """Called by the engine's thread for every token, and at the end."""
        self._outbox.put((self, item))

    def news(self, items: list[Item]) -> News:
        """What is new with these items: tokens, and at last how it ended."""
        generation = self.generation
        tokens = [item for item in items if isinstance(item, int)]
        ended = len(tokens) < len(items)
        error = next((str(item) for item in items if isinstance(item, EngineError)), None)
        decode = generation.decode[self._told_steps :]
        self._told_steps += len(decode)
        logprobs: list[TokenLogprobs] = []
        if generation.logprobs:
            upto = self._told_logprobs + len(tokens)
            logprobs = generation.logprobs[self._told_logprobs : upto]
            self._told_logprobs = upto
        prefill = None if self._told_prefill else generation.prefill
        self._told_prefill = True
        return News(
            self.number,
            tokens,
            logprobs,
            decode,
            prefill,
            generation.reused_tokens,
            generation.queued_seconds,
            generation.sampler_seconds,
            generation.finish_reason if ended else None,
            error,
        )


class _Sender(logging.Handler):
    """Sends messages from several threads, and log records as messages."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
        self._sending = threading.Lock()

    def send(self, message: FromEngine) -> None:
        """Send one; raises OSError when the service is gone."""
        with self._sending:
            self._pipe.send(message)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record as its text."""
        with contextlib.suppress(OSError):
            fields = dict(getattr(record, "fields", {}))
            self.send(Logged(record.name, record.levelno, self.format(record), fields))


class _EngineServer:
    """Hears the service in one thread and tells it of tokens in another."""

    def __init__(self, engine: Engine, pipe: Connection, sender: _Sender) -> None:
        self._engine = engine
        self._pipe = pipe
        self._send = sender.send
        self._answers: dict[int, _Answer] = {}
        self._outbox: queue.SimpleQueue[tuple[_Answer, Item]] = queue.SimpleQueue()
        self._broken = False
        self._placement: Placement | None = None  # as the service knows it

    def serve(self) -> None:
        """Until the service closes; raises EOFError or OSError when it is gone."""
        pipeline = self._engine.pipeline
        self._send(EngineReady(tuple(pipeline.rss_bytes), tuple(pipeline.process_ids)))
        threading.Thread(target=self._tell, name="glm-plan telling", daemon=True).start()
        while not isinstance(message := self._pipe.recv(), Close):
            if isinstance(message, Ask):
                self._submit(message)
            elif isinstance(message, Cancel):
                answer = self._answers.get(message.number)
                if answer is not None and answer.stream is not None:
                    answer.stream.cancel()
            elif isinstance(message, Forget):
                self._engine.forget()
            elif isinstance(message, Ping):
                self._tell_if_moved()
                self._send(self._pong())
                self._tell_if_broken()

    def _pong(self) -> Pong:
        engine = self._engine
        paused = (engine.last_loss or "a stage is started again") if engine.paused else None
        process_ids = tuple(engine.pipeline.process_ids)
        resident = () if process_ids else tuple(engine.pipeline.resident_bytes())
        return Pong(process_ids, resident, engine.restarts, paused)

    def _tell_if_moved(self) -> None:
        placement = self._engine.pipeline.placement
        if placement is not None and placement is not self._placement:
            self._placement = placement
            self._send(Moved(placement))

    def _submit(self, ask: Ask) -> None:
        answer = _Answer(ask, self._outbox)
        self._answers[ask.number] = answer
        try:
            answer.stream = self._engine.submit(
                ask.prompt_ids,
                ask.sampling,
                ask.max_new_tokens,
                generation=answer.generation,
                replayed_ids=ask.replayed_ids,
                on_item=answer.take,
            )
        except GlmPlanError as error:
            answer.take(EngineError(str(error)))

    def _tell(self) -> None:
        """Send what waits, all answers together; a step's tokens thus take one message."""
        with contextlib.suppress(OSError):
            while True:
                items: dict[_Answer, list[Item]] = {}
                answer, item = self._outbox.get()
                items.setdefault(answer, []).append(item)
                while not self._outbox.empty():
                    answer, item = self._outbox.get()
                    items.setdefault(answer, []).append(item)
                if self._tell_if_broken():
                    return
                news = [answer.news(taken) for answer, taken in items.items()]
                for one in news:
                    if one.end is not None or one.error is not None:
                        del self._answers[one.number]
                self._send(Steps(news))

    def _tell_if_broken(self) -> bool:
        """Answers of a broken engine don't end: the service has them continued elsewhere."""
        fault = self._engine.fault
        if fault is not None and not self._broken:
            self._broken = True
            self._send(_broken(fault, fewer_blocks=isinstance(fault, StageFailedError)))
        return self._broken
