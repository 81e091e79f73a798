"""One request after another: prompt in, tokens out, with the measured time of every step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from runtime.article.greedy import require_greedy
from runtime.bundle import Bundle
from runtime.embedding import EmbeddingFile
from runtime.launch import StageLaunch
from runtime.logits import TokenLogprobs, token_logprobs
from runtime.pipeline import Pipeline, ProgressCallback, StepTime
from runtime.sampling import Sampling, choose
from runtime.stage import Step
from runtime.step_inputs import Row
from scheduler.errors import UserInputError


@dataclass
class Generation:
    """What one request measured; filled while its tokens stream.

    Seconds are wall time.
    """

    prompt_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None  # stop (the model ended), length (no room or limit reached)
    started: float = 0.0
    prefill: StepTime | None = None
    first_token_seconds: float = 0.0
    decode: list[StepTime] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # by token, where asked for
    total_seconds: float = 0.0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first one, per second of the time after the first one."""
        elapsed = self.total_seconds - self.first_token_seconds
        return len(self.decode) / elapsed if self.decode and elapsed > 0 else None


class Engine:
    """A loaded model: owns the pipeline and answers one request at a time.

    Raises EngineError when a stage fails, and what `Pipeline` raises while loading.
    """

    def __init__(
        self,
        bundle: Bundle,
        launches: list[StageLaunch],
        context_tokens: int,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        manifest = bundle.manifest
        geometry = manifest.geometry
        self.context_tokens = min(context_tokens, geometry.max_context)
        self._end_ids = manifest.end_ids
        self._prefix_mask = geometry.mask == "prefix"
        self._bundle = bundle
        self._embedding = EmbeddingFile(
            bundle.file(manifest.embedding.file),
            geometry.vocab_size,
            geometry.hidden_size,
            manifest.embedding.dtype,
        )
        self.pipeline = Pipeline(launches, geometry, 1, self.context_tokens, on_progress)

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        generation: Generation,
    ) -> Iterator[int]:
        """Yield new token ids, without the end token, and record into `generation` as they come.

        ChatGLM's `prompt_ids` end with [gMASK] and <sop>. Raises UserInputError when they do not
        fit the context, and for sampling where the model returns no logits.
        """
        require_greedy(self._bundle, sampling)
        length = len(prompt_ids)
        if length >= self.context_tokens:
            raise UserInputError(
                f"the prompt has {length} tokens and the context holds {self.context_tokens};"
                f" shorten it by {length - self.context_tokens + 1} or more, or plan a larger"
                " --context."
            )
        generation.started = time.perf_counter()
        generation.prompt_tokens = length
        context_end, mask_position = (length - 1, length - 2) if self._prefix_mask else (0, 0)
        cached, step_ids = 0, list(prompt_ids)
        while True:
            row = Row(cached, context_end, mask_position)
            hidden = self._embedding.lookup(step_ids)[None]
            logits, step_time = self.pipeline.forward(hidden, Step((row,), len(step_ids)))
            cached += len(step_ids)
            token_id = choose(logits[0], sampling, len(generation.token_ids), generation.token_ids)
            self._record(generation, step_time)
            if token_id in self._end_ids:
                generation.finish_reason = "stop"
                return
            generation.token_ids.append(token_id)
            if sampling.top_logprobs is not None:
                generation.logprobs.append(
                    token_logprobs(logits[0], token_id, sampling.top_logprobs)
                )
            if len(generation.token_ids) >= max_new_tokens or cached >= self.context_tokens:
                generation.finish_reason = "length"
            yield token_id
            if generation.finish_reason:
                return
            step_ids = [token_id]

    @staticmethod
    def _record(generation: Generation, step_time: StepTime) -> None:
        generation.total_seconds = time.perf_counter() - generation.started
        if generation.prefill is None:
            generation.prefill = step_time
            generation.first_token_seconds = generation.total_seconds
        else:
            generation.decode.append(step_time)

    def close(self) -> None:
        """End the workers."""
        self.pipeline.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
