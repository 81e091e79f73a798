"""The one door between HTTP and the engine: an answer's tokens, awaited instead of blocking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor

from runtime.engine import Engine, Generation
from runtime.logits import TokenLogprobs
from runtime.sampling import Sampling

Token = tuple[int, TokenLogprobs | None]
_Item = Token | BaseException | None


class TokenStream:
    """Runs one generation in a thread of `executor`, and hands its tokens to the event loop.

    `on_end` is called in the loop when the engine has let go of the request, after `cancel` within
    one token. `generation` fills while tokens come.
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
        self._cancelled = False
        self._request = (engine, prompt_ids, sampling, max_new_tokens)
        self._running = self._loop.run_in_executor(executor, self._run)
        self._running.add_done_callback(lambda _: on_end())

    def cancel(self) -> None:
        """Stop after the token that is being computed."""
        self._cancelled = True

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
        try:
            for item in self._generate():
                self._send(item)
                if self._cancelled:
                    break
        except Exception as error:
            self._send(error)
        else:
            self._send(None)

    def _generate(self) -> Iterator[Token]:
        engine, prompt_ids, sampling, max_new_tokens = self._request
        generation = self.generation
        asked = sampling.top_logprobs is not None
        tokens = engine.generate(prompt_ids, sampling, max_new_tokens, generation)
        for number, token in enumerate(tokens):
            yield token, generation.logprobs[number] if asked else None

    def _send(self, item: _Item) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
