"""Slots: the requests that run, where their keys and values are, and what each needs next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.backends.protocol import FloatArray
from runtime.batching import Arrangement, arrange
from runtime.logits import token_logprobs
from runtime.pipeline import StepTime
from runtime.sampling import Sampling, choose
from runtime.step_inputs import Row
from runtime.stream import FinishReason, Stream


@dataclass
class Request:
    """One request from its arrival to its end; `cached` tokens are in the cache.

    Tokens of the answer that are known while they are not in the cache are replayed: decode steps
    take them as they are, and nothing is chosen or streamed until they are all there.
    """

    stream: Stream
    prompt_ids: Sequence[int]
    sampling: Sampling
    max_new_tokens: int
    end_ids: frozenset[int]
    context_tokens: int
    prefix_mask: bool
    cached: int = 0
    aborting: bool = False
    number: int = 0  # in the order in which they came
    fatal_prompts: int = 0  # stages that ended while they computed its prompt, in a row

    @property
    def decoding(self) -> bool:
        """Whether its prompt is in the cache."""
        return self.cached >= len(self.prompt_ids)

    @property
    def replays(self) -> bool:
        """Whether the step that was taken last leads to a token that is known already."""
        return self._answered < len(self.stream.generation.token_ids)

    @property
    def next_id(self) -> int:
        """The token that the next decode step reads."""
        return self.stream.generation.token_ids[self._answered]

    @property
    def _answered(self) -> int:
        """Tokens of the answer in the cache."""
        return self.cached - len(self.prompt_ids)

    @property
    def room(self) -> int:
        """Tokens that its row of the cache must have room for in the next step."""
        return max(self.cached + 1, len(self.prompt_ids))

    @property
    def row(self) -> Row:
        """The next step's view of it."""
        length = len(self.prompt_ids)
        return Row(self.cached, length - 1, length - 2) if self.prefix_mask else Row(self.cached)

    def begin_again(self) -> None:
        """Be as before the first step, but for the tokens that have been given: replay those."""
        self.cached = 0
        self.aborting = False
        self.stream.generation.prefill = None
        self.stream.generation.replays += 1

    def took_prompt(self, tokens: int, taken: StepTime) -> None:
        """Record that more of the prompt is in the cache."""
        self.cached += tokens
        generation = self.stream.generation
        before = generation.prefill
        generation.prefill = taken if before is None else before.plus(taken)

    def took_step(self, taken: StepTime) -> None:
        """Record a decode step; one that replays gives no token, nor does its time count."""
        self.cached += 1
        if not self.replays and self.stream.generation.first_token_seconds:
            self.stream.generation.decode.append(taken)

    def take(self, logits: FloatArray) -> FinishReason | None:
        """Take the next token from logits [vocab_size]; how the answer ends, if it does."""
        return self._replay(logits) if self.replays else self._choose(logits)

    def _replay(self, logits: FloatArray) -> FinishReason | None:
        generation, wanted = self.stream.generation, self.sampling.top_logprobs
        if wanted is not None and len(generation.logprobs) <= self._answered:
            generation.logprobs.append(token_logprobs(logits, self.next_id, wanted))
        last = self._answered + 1 == len(generation.token_ids)
        return "length" if last and self._full else None

    @property
    def _full(self) -> bool:
        tokens = len(self.stream.generation.token_ids)
        return tokens >= self.max_new_tokens or self.cached >= self.context_tokens

    def _choose(self, logits: FloatArray) -> FinishReason | None:
        generation, sampling = self.stream.generation, self.sampling
        so_far = generation.token_ids
        began = time.perf_counter()
        token_id = choose(logits, sampling, len(so_far), so_far)
        now = time.perf_counter()
        generation.sampler_seconds += now - began
        generation.total_seconds = now - generation.started
        if not generation.first_token_seconds:
            generation.first_token_seconds = generation.total_seconds
        if token_id in self.end_ids:
            return "stop"
        if sampling.top_logprobs is not None:
            generation.logprobs.append(token_logprobs(logits, token_id, sampling.top_logprobs))
        so_far.append(token_id)
        generation.token_seconds.append(generation.total_seconds)
        self.stream.push(token_id)
        return "length" if self._full else None


@dataclass
class Group:
    """Requests that are decoded together: a cache with a row for each.

    `paired`: never compute a row alone.
    """

    number: int
    size: int
    paired: bool
    requests: dict[int, Request] = field(default_factory=dict)  # by row
    rows: int = 0
    capacity: int = 0
    busy: bool = False  # a decode step is under way
    kept: dict[int, list[int]] = field(default_factory=dict)  # token ids in unused rows

    def free_row(self) -> int:
        """The lowest row that nobody uses, rather one that keeps nothing."""
        free = [row for row in range(self.size) if row not in self.requests]
        return min(free, key=lambda row: (row in self.kept, row))

    def keep(self, request: Request) -> None:
        """Remember what a finished request leaves in its row, for another prompt that begins so."""
        tokens = [*request.prompt_ids, *request.stream.generation.token_ids]
        self.kept[self.row_of(request)] = tokens[: request.cached]

    def longest_kept(self, prompt_ids: Sequence[int]) -> tuple[int, int]:
        """How many tokens of this prompt an unused row has in its cache, at most, and which row.

        The prompt's last token is computed in any case, for its logits.
        """
        found = {row: common(kept, prompt_ids[:-1]) for row, kept in self.kept.items()}
        row = max(found, key=lambda one: found[one], default=0)
        return found.get(row, 0), row

    def row_of(self, request: Request) -> int:
        """Where a request is now."""
        return next(row for row, one in self.requests.items() if one is request)

    def arrange(self, keep: bool) -> Arrangement:
        """Shape the cache for the next step, and move requests as that says."""
        room = {row: request.room for row, request in self.requests.items()}
        result = arrange(self.rows, self.capacity, room, keep, self.paired)
        self.requests = {
            result.moved.get(row, row): request for row, request in self.requests.items()
        }
        self.rows, self.capacity = result.rows, result.capacity
        self.kept = {
            row: kept
            for row, kept in self.kept.items()
            if row < self.rows and row not in self.requests and len(kept) <= self.capacity
        }
        return result

    def forget(self) -> None:
        """Be as a group without a cache."""
        self.kept = {}
        self.rows = self.capacity = 0


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that two sequences begin with together."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
