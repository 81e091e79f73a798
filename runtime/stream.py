"""A request's answer as it comes: tokens, how it ended, and what it measured."""

from __future__ import annotations

import copy
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from runtime.logits import TokenLogprobs
from runtime.pipeline import StepTime
from scheduler.errors import EngineError

FinishReason = Literal["stop", "length", "cancelled"]
Item = int | EngineError | None
"""A token, or the end: None where `finish_reason` says how, the error where it failed."""


@dataclass
class Generation:
    """What one request measured; filled while its tokens stream.

    Seconds are wall time since the request was made, so the first token's include the queue.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0  # of the prompt, found in the cache
    token_ids: list[int] = field(default_factory=list)  # replayed ones included
    replays: int = 0  # how often a worker ended under it, and its cache was built again
    finish_reason: FinishReason | None = None  # stop: the model ended; length: no room, or limit
    started: float = 0.0
    queued_seconds: float = 0.0
    prefill: StepTime | None = None
    first_token_seconds: float = 0.0
    decode: list[StepTime] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # by token, where asked for
    total_seconds: float = 0.0
    token_seconds: list[float] = field(default_factory=list)  # when each token was chosen
    sampler_seconds: float = 0.0  # choosing, over all tokens

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first one, per second of the time after the first one."""
        elapsed = self.total_seconds - self.first_token_seconds
        return len(self.decode) / elapsed if self.decode and elapsed > 0 else None


class Stream:
    """Iterate over it for token ids, in any one thread; the end token is not among them.

    Iterating raises EngineError where the engine failed under this request. With `on_item`, that is
    called for every token and for the end, in the engine's thread, and there is nothing to iterate.
    """

    def __init__(
        self,
        generation: Generation,
        on_cancel: Callable[[], None],
        on_item: Callable[[Item], None] | None = None,
    ) -> None:
        self.generation = generation
        self.cancelled = False
        self._on_cancel = on_cancel
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._put = on_item or self._items.put
        self._ended = False

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the answer ended; None while it runs, and where it failed."""
        return self.generation.finish_reason

    def cancel(self) -> None:
        """Ask for an early end; tokens may still come until it is heard. Safe to call twice."""
        if not self.cancelled:
            self.cancelled = True
            self._on_cancel()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        """The next token id, when there is one."""
        if self._ended:
            raise StopIteration
        item = self._items.get()
        if isinstance(item, int):
            return item
        self._ended = True
        if item is None:
            raise StopIteration
        raise copy.copy(item) from item

    def push(self, token_id: int) -> None:
        """Hand over a token; for the engine."""
        self._put(token_id)

    def end(self, reason: FinishReason | EngineError) -> None:
        """Finish the stream; for the engine."""
        if isinstance(reason, EngineError):
            self._put(reason)
            return
        self.generation.finish_reason = reason
        self._put(None)
