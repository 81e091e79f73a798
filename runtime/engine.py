"""The engine: takes requests, and answers them together over one pipeline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from runtime.article.greedy import require_greedy
from runtime.batch_loop import BatchLoop
from runtime.batching import group_sizes, stages_at_once
from runtime.bundle import Bundle, require_unchanged
from runtime.embedding import EmbeddingFile
from runtime.launch import StageLaunch
from runtime.pipeline import Pipeline, ProgressCallback
from runtime.pipeline_protocol import PipelineFactory, StagePipeline
from runtime.sampling import Sampling
from runtime.slots import Request
from runtime.stream import Generation, Item, Stream
from scheduler.errors import BundleError, EngineError, UserInputError

__all__ = ["Engine", "Generation", "Stream"]

QUEUE_LIMIT = 256


class Engine:
    """A loaded model: owns the pipeline, and a thread that batches requests.

    `slots` requests run at once, each with a context of `context_tokens`; at most `queue_limit`
    more wait. The article's graphs run one request at a time, whatever `slots` says. `cores` is
    what the stages on the processor share (None: all that this process may use). `start_pipeline`
    starts the stages, here or on the machines of a cluster. Raises EngineError when a stage fails,
    and what the pipeline raises while loading.
    """

    def __init__(
        self,
        bundle: Bundle,
        launches: list[StageLaunch],
        context_tokens: int,
        on_progress: ProgressCallback | None = None,
        *,
        slots: int = 1,
        queue_limit: int = QUEUE_LIMIT,
        cores: int | None = None,
        start_pipeline: PipelineFactory = Pipeline,
    ) -> None:
        manifest = bundle.manifest
        geometry = manifest.geometry
        self.context_tokens = min(context_tokens, geometry.max_context)
        self.slots = 1 if bundle.layout == "article" else slots
        self._end_ids = manifest.end_ids
        self._prefix_mask = geometry.mask == "prefix"
        self._bundle = bundle
        embedding = EmbeddingFile(
            bundle.file(manifest.embedding.file),
            geometry.vocab_size,
            geometry.hidden_size,
            manifest.embedding.dtype,
        )
        on_cpu = [one.threads for one in launches if one.backend.endswith(":cpu")]
        at_once = stages_at_once(on_cpu, len(launches) - len(on_cpu), cores or _usable_cores())
        sizes = group_sizes(self.slots, at_once)
        self.pipeline: StagePipeline = start_pipeline(
            launches, geometry, len(sizes), self.context_tokens, on_progress
        )
        try:
            require_unchanged(bundle)
        except BundleError:
            self.pipeline.close()
            raise
        self._loop = BatchLoop(
            self.pipeline, embedding, sizes, at_once, queue_limit, chunked=not self._prefix_mask
        )

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        *,
        stop_ids: frozenset[int] = frozenset(),
        ignore_end: bool = False,
        generation: Generation | None = None,
        replayed_ids: Sequence[int] = (),
        on_item: Callable[[Item], None] | None = None,
    ) -> Stream:
        """Queue a request; its tokens stream as they are computed, whether they are read or not.

        ChatGLM's `prompt_ids` end with [gMASK] and <sop>. `stop_ids` end the answer beside the
        model's own end tokens; with `ignore_end` those are tokens like others. `on_item`
        hears of tokens instead of who iterates, see `Stream`.

        `replayed_ids` continue an answer whose first tokens came from another engine. They are read
        one by one, as they were then, and are not streamed: the stream begins with the token after
        them. `generation` counts them among `token_ids` and `logprobs`, and they count towards
        `max_new_tokens`; its times are those of the tokens after them.

        Raises UserInputError when the prompt does not fit the context, and for sampling where the
        model returns no logits, BusyError when the queue is full, EngineError when a stage has
        failed before.
        """
        require_greedy(self._bundle, sampling)
        length = len(prompt_ids)
        if not length:
            raise UserInputError("the prompt has no tokens; expected one or more.")
        if length >= self.context_tokens:
            raise UserInputError(
                f"the prompt has {length} tokens and the context holds {self.context_tokens};"
                f" shorten it by {length - self.context_tokens + 1} or more, or plan a larger"
                " --context."
            )
        replayed = list(replayed_ids)
        vocabulary = self._bundle.manifest.geometry.vocab_size
        if not all(0 <= token < vocabulary for token in replayed):
            raise UserInputError(
                f"a token to replay is not in the vocabulary of {vocabulary}; replay what the same"
                " model answered."
            )
        if length + len(replayed) > self.context_tokens + 1:
            raise UserInputError(
                f"{length} tokens of the prompt and {len(replayed)} to replay do not fit the"
                f" context of {self.context_tokens}; plan the --context that they came from."
            )
        generation = Generation() if generation is None else generation
        generation.token_ids[:] = replayed
        generation.started = time.perf_counter()
        generation.prompt_tokens = length
        stream = Stream(generation, self._loop.ring, on_item)
        self._loop.submit(
            Request(
                stream,
                list(prompt_ids),
                sampling,
                max_new_tokens,
                stop_ids if ignore_end else self._end_ids | stop_ids,
                self.context_tokens,
                self._prefix_mask,
            )
        )
        return stream

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        generation: Generation,
    ) -> Iterator[int]:
        """Yield the tokens of one request as `submit` does, recorded into `generation`.

        A caller that stops early cancels it.
        """
        stream = self.submit(prompt_ids, sampling, max_new_tokens, generation=generation)
        try:
            yield from stream
        finally:
            stream.cancel()

    @property
    def fault(self) -> EngineError | None:
        """Why it takes no requests any more; None while it does."""
        return self._loop.fault

    @property
    def restarts(self) -> tuple[int, ...]:
        """How often each stage was started again since the engine began."""
        return self.pipeline.restarts

    @property
    def last_loss(self) -> str | None:
        """Which stage's worker ended last, and why; None where none did."""
        error = self.pipeline.last_loss
        return None if error is None else str(error)

    @property
    def paused(self) -> bool:
        """Whether answers wait for a stage that is being started again."""
        return not self.pipeline.ready

    def forget(self) -> None:
        """Give back the memory in which finished causal requests left their tokens.

        Until then a prompt that begins like an earlier one is computed from where it differs.
        """
        self._loop.forget()

    def close(self) -> None:
        """End the workers; running answers end as cancelled."""
        self._loop.close()
        self.pipeline.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
