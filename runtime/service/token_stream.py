"""The one door between HTTP and the engine: an answer's tokens, awaited instead of blocking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor

from runtime.engine import Engine, Generation
from runtime.logits import TokenLogprobs
from runtime.sampling import Sampling

Token = tuple[int, TokenLogprobs | None]
_Item = Token | BaseException | None


class TokenStream:
    """Submits one request, and hands its tokens to the event loop by a thread of `executor`.

    `on_end` is called in the loop when the engine has let go of the request, after `cancel` within
    one step. `generation` fills while tokens come. Raises what `Engine.submit` raises.
    """

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        on_end: Callable[[], None],
    ) -> None:
        self.generation = Generation()
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._with_logprobs = sampling.top_logprobs is not None
        self._stream = engine.submit(
            prompt_ids, sampling, max_new_tokens, generation=self.generation
        )
        self._running = self._loop.run_in_executor(executor, self._run)
        self._running.add_done_callback(lambda _: on_end())

    def cancel(self) -> None:
        """Stop after the step that is being computed."""
        self._stream.cancel()

    async def tokens(self) -> AsyncIterator[Token]:
        """Yield (token id, log probabilities); raises what the engine raises."""
        while (item := await self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    async def ended(self) -> None:
        """Wait until the engine has let go of the request."""
        await asyncio.shield(self._running)

    def _run(self) -> None:
        logprobs = self.generation.logprobs
        try:
            for number, token in enumerate(self._stream):
                self._send((token, logprobs[number] if self._with_logprobs else None))
        except Exception as error:
            self._send(error)
        else:
            self._send(None)

    def _send(self, item: _Item) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
