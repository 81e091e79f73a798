"""An engine that outlives its process: started anew, with every answer continued.

A thread starts the engine's process, takes what it says, and waits for its end. Answers under way
are asked of the next process with the tokens that they have, which it computes again without
choosing or telling them: their clients see a pause.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Literal

from runtime.engine_messages import (
    Ask,
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
    Pong,
    Steps,
)
from runtime.placement import Placement
from runtime.remote_engine import HANG_TICKS, DeadEngineError, RemoteEngine
from runtime.restart_rules import PATIENCE, pause_seconds, recent
from runtime.sampling import Sampling
from runtime.stream import Generation, Item, Stream
from scheduler.errors import EngineError, GlmPlanError

_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 10.0

EngineState = Literal["loading", "ready", "restarting", "failed"]
FewerBlocks = Callable[[str, str], EngineConfig]
"""What to start after a device failed for a reason; raises PlanError where there is no way."""


@dataclass
class _Asked:
    """An answer under way."""

    number: int
    prompt_ids: Sequence[int]
    sampling: Sampling
    max_new_tokens: int
    stream: Stream
    deaths: int = 0  # since its newest token
    sampler_seconds: float = 0.0  # in earlier processes
    context: Context = field(default_factory=copy_context)  # of whoever asked, for the log


class _MoveError(Exception):
    """The process ends so that the next one has a block fewer on a device."""


class LastingEngine:
    """Keeps an engine's process alive until `close`.

    `state` is loading, ready, restarting, or failed: after several deaths without a token between
    them, though it goes on trying. `fault` says why it is not ready. A device that fails gets fewer
    blocks, if `fewer_blocks` knows a way. `loaded` is done when the first start has ended, in one
    way or the other.
    """

    def __init__(
        self,
        config: EngineConfig,
        fewer_blocks: FewerBlocks,
        hang_ticks: int = HANG_TICKS,
    ) -> None:
        self.state: EngineState = "loading"
        self.fault: GlmPlanError | None = None
        self.loaded: Future[None] = Future()
        self.loaded_parts = 0
        self.rss_bytes = [0] * len(config.launches)  # when its newest part came
        self.worker_ids: tuple[int, ...] = ()  # process ids, by stage; none between engines
        self.stage_restarts: tuple[int, ...] = ()  # of the present process
        self.paused: str | None = None  # why answers wait for a stage of it
        self.placement: Placement | None = None  # of it, on a cluster, since stages have moved
        self.starts = 0  # that were ready
        self.restarts = 0
        self.replays = 0
        self.replayed_tokens = 0
        self._config = config
        self._fewer_blocks = fewer_blocks
        self._hang_ticks = hang_ticks
        self._numbers = itertools.count()
        self._asked: dict[int, _Asked] = {}
        self._process: RemoteEngine | None = None
        self._engine: RemoteEngine | None = None  # the same, while it takes requests
        self._deaths: list[float] = []  # since the newest token
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._given_up: tuple[str, str] | None = None  # a device that shall lose a block, and why
        self._at_once = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="glm-plan engine")

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        """Of the engine that takes requests, if there is one."""
        engine = self._engine
        return engine.process.pid if engine is not None else None

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        *,
        generation: Generation,
        on_item: Callable[[Item], None],
    ) -> Stream:
        """Ask as `Engine.submit` does; `on_item` hears of tokens and the end in another thread.

        Raises EngineError when this is closed or has failed too often.
        """
        number = next(self._numbers)
        generation.started = time.perf_counter()
        generation.prompt_tokens = len(prompt_ids)
        stream = Stream(generation, functools.partial(self._cancel, number), on_item)
        asked = _Asked(number, prompt_ids, sampling, max_new_tokens, stream)
        with self._lock:
            if self._closing.is_set():
                raise EngineError("the engine is closed.")
            if self.state == "failed":
                raise EngineError(str(self.fault))
            self._asked[number] = asked
            if self._engine is not None:
                self._engine.tell(_question(asked))
        return stream

    def forget(self) -> None:
        """Give back the memory in which finished causal requests left their tokens."""
        engine = self._engine
        if engine is not None:
            engine.tell(Forget())

    def give_up_block(self, device: str, reason: str) -> None:
        """End the process within a second, and start anew with a block fewer on a device.

        Where that is impossible it starts as it was. Answers under way go on in the next process.
        """
        self._given_up = device, reason

    def _cancel(self, number: int) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.tell(Cancel(number))
                return
            asked = self._asked.pop(number, None)
        if asked is not None:
            asked.stream.end("cancelled")

    def close(self, *, at_once: bool = False) -> None:
        """End the process and its workers; running answers end as cancelled. Safe to call twice."""
        with self._lock:
            self._at_once |= at_once
            self._closing.set()
            process, engine = self._process, self._engine
        if engine is not None and not at_once:
            engine.tell(Close())
        elif process is not None:
            process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._process = engine = RemoteEngine(self._config, self._hang_ticks)
                try:
                    self._live(engine)
                except (DeadEngineError, _MoveError) as end:
                    with self._lock:
                        self._engine = None
                    self.worker_ids, self.paused = (), None
                    engine.kill()
                    if isinstance(end, DeadEngineError):
                        self._after(end)
                    else:
                        self._move_as_asked()
                finally:
                    engine.close(0.0 if self._at_once else _CLOSE_SECONDS)
        except Exception as error:
            _log.exception("the thread that keeps the engine failed")
            self.fault = EngineError(f"the service failed: {error!r}.")
        with self._lock:
            self._closing.set()
            self._engine = None
            self.state = "failed"
            self.fault = self.fault or EngineError("the server is ending.")
            left = list(self._asked.values())
            self._asked.clear()
        for asked in left:
            asked.stream.end("cancelled")
        if not self.loaded.done():
            self.loaded.set_result(None)

    def _live(self, engine: RemoteEngine) -> None:
        """From one process's start until all is closed; raises DeadEngineError at its end."""
        self.loaded_parts = 0
        self.placement = None
        self.rss_bytes = [0] * len(self._config.launches)
        while not self._closing.is_set():
            for message in engine.receive():
                self._take(engine, message)
            if self._given_up is not None and self._engine is not None:
                raise _MoveError

    def _move_as_asked(self) -> None:
        """Plan the next process as `give_up_block` asks, now that the last one holds no memory."""
        assert self._given_up is not None
        (device, reason), self._given_up = self._given_up, None
        self._tell_askers({"device": device, "cause": reason})
        with self._lock:
            self.state = "restarting"
            for asked in self._asked.values():
                asked.sampler_seconds = asked.stream.generation.sampler_seconds
        self._move_blocks(device, reason)

    def _take(self, engine: RemoteEngine, message: FromEngine) -> None:
        if isinstance(message, Steps):
            for news in message.news:
                self._spread(news)
        elif isinstance(message, PartLoaded):
            self.loaded_parts += 1
            self.rss_bytes[message.stage] = message.rss_bytes
        elif isinstance(message, EngineReady):
            self._begin(engine, message)
        elif isinstance(message, Pong):
            self.worker_ids = message.process_ids
            self.stage_restarts = message.stage_restarts
            self.paused = message.paused
            self.rss_bytes = list(message.resident_bytes) or self.rss_bytes
        elif isinstance(message, Moved):
            self.placement = message.placement
        elif isinstance(message, Logged):
            logger = logging.getLogger(message.logger)
            logger.log(message.level, "%s", message.text, extra={"fields": message.fields})
            if "restart" in message.fields:
                self._tell_askers(message.fields)

    def _begin(self, engine: RemoteEngine, ready: EngineReady) -> None:
        self.rss_bytes = list(ready.rss_bytes)
        self.worker_ids = ready.process_ids
        engine.watch()
        ended: list[_Asked] = []
        with self._lock:
            for asked in list(self._asked.values()):
                known = len(asked.stream.generation.token_ids)
                if known >= asked.max_new_tokens:  # its end was lost with the process
                    del self._asked[asked.number]
                    ended.append(asked)
                    continue
                self.replays += bool(asked.deaths)
                self.replayed_tokens += known
                engine.tell(_question(asked))
            self._engine = engine
            self.starts += 1
            self.state, self.fault = "ready", None
        for asked in ended:
            asked.stream.end("length")
        if self.restarts:
            _log.warning("the engine is back; %d answers go on", len(self._asked))
        if not self.loaded.done():
            self.loaded.set_result(None)

    def _spread(self, news: News) -> None:
        """Hand over what is new of an answer."""
        with self._lock:
            asked = self._asked.get(news.number)
            if asked is None:
                return
            ended = news.end is not None or news.error is not None
            if ended:
                del self._asked[news.number]
        stream, generation = asked.stream, asked.stream.generation
        now = time.perf_counter() - generation.started
        if news.prefill is not None and generation.prefill is None:
            generation.prefill = news.prefill
            generation.reused_tokens = news.reused_tokens
            generation.queued_seconds = news.queued_seconds
        generation.decode += news.decode
        generation.logprobs += news.logprobs
        generation.sampler_seconds = asked.sampler_seconds + news.sampler_seconds
        generation.total_seconds = now
        if news.token_ids:
            asked.deaths = 0
            self._deaths.clear()
            if not generation.token_ids:
                generation.first_token_seconds = now
            generation.token_ids += news.token_ids
            generation.token_seconds += [now] * len(news.token_ids)
            for token in news.token_ids:
                stream.push(token)
        if news.error is not None:
            stream.end(EngineError(news.error))
        elif news.end is not None:
            stream.end(news.end)

    def _after(self, death: DeadEngineError) -> None:
        """Decide what follows a death, and wait as long as that says."""
        if self._closing.is_set():
            return
        named = {"device": death.device, "blocks": death.blocks, "cause": death.cause}
        fields = {name: one for name, one in named.items() if one is not None}
        _log.error("%s", death, extra={"fields": fields})
        self._tell_askers(fields)
        first = self.state == "loading"
        now = time.monotonic()
        self._deaths = [*recent(self._deaths, now), now]
        moved = False
        if death.fewer_blocks and death.device not in (None, "cpu"):
            moved = self._move_blocks(str(death.device), str(death))
        lost: list[_Asked] = []
        with self._lock:
            self.fault = death
            if first and not moved:
                self.state = "failed"
                self._closing.set()
                return
            self.restarts += not first
            for asked in list(self._asked.values()):
                asked.deaths += 1
                asked.sampler_seconds = asked.stream.generation.sampler_seconds
                if asked.stream.cancelled or asked.deaths >= PATIENCE:
                    del self._asked[asked.number]
                    lost.append(asked)
            if not first:
                self.state = "failed" if len(self._deaths) >= PATIENCE else "restarting"
        for asked in lost:
            asked.stream.end("cancelled" if asked.stream.cancelled else EngineError(str(death)))
        if not moved:
            self._closing.wait(pause_seconds(len(self._deaths)))

    def _tell_askers(self, fields: Mapping[str, object]) -> None:
        """Log a fault once more for every answer that it holds up, as part of that answer."""
        with self._lock:
            contexts = [asked.context for asked in self._asked.values()]
        extra = {"fields": dict(fields)}
        for context in contexts:
            context.run(_log.warning, "an answer under way waits", extra=extra)

    def _move_blocks(self, device: str, reason: str) -> bool:
        """Whether the next process will have fewer blocks on a device."""
        try:
            config = self._fewer_blocks(device, reason)
        except GlmPlanError as error:
            _log.error("%s", error)
            return False
        self._config = config
        self.rss_bytes = [0] * len(config.launches)
        with self._lock:
            for asked in self._asked.values():  # stages that are gone were measured
                asked.stream.generation.prefill = None
                asked.stream.generation.decode.clear()
        return True


def _question(asked: _Asked) -> Ask:
    return Ask(
        asked.number,
        list(asked.prompt_ids),
        asked.sampling,
        asked.max_new_tokens,
        list(asked.stream.generation.token_ids),
    )
