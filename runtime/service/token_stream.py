"""The one door between HTTP and the engine: an answer's tokens, awaited instead of blocking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from runtime.lasting_engine import LastingEngine
from runtime.logits import TokenLogprobs
from runtime.sampling import Sampling
from runtime.stream import Generation, Item
from scheduler.errors import EngineError

Token = tuple[int, TokenLogprobs | None]


class TokenStream:
    """Submits one request, and has its tokens brought to the event loop by the engine's thread.

    `on_end` is called in the loop when the engine has let go of the request, after `cancel` within
    one step. `generation` fills while tokens come. Raises what `LastingEngine.submit` raises.
    """

    def __init__(
        self,
        engine: LastingEngine,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        on_end: Callable[[], None],
    ) -> None:
        self.generation = Generation()
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._let_go = asyncio.Event()
        self._on_end = on_end
        self._with_logprobs = sampling.top_logprobs is not None
        self._stream = engine.submit(
            prompt_ids, sampling, max_new_tokens, generation=self.generation, on_item=self._send
        )

    def cancel(self) -> None:
        """Stop after the step that is being computed."""
        self._stream.cancel()

    async def tokens(self) -> AsyncIterator[Token]:
        """Yield (token id, log probabilities); raises what the engine raises."""
        number = 0
        while (item := await self._items.get()) is not None:
            if isinstance(item, EngineError):
                raise item
            yield item, self.generation.logprobs[number] if self._with_logprobs else None
            number += 1

    async def ended(self) -> None:
        """Wait until the engine has let go of the request."""
        await self._let_go.wait()

    def _send(self, item: Item) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._take, item)

    def _take(self, item: Item) -> None:
        self._items.put_nowait(item)
        if not isinstance(item, int):
            self._let_go.set()
            self._on_end()
