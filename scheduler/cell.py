"""Cell: the verdict on one model, machine and setting, with the constraint that binds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scheduler.cost import SpeedProvenance
from scheduler.plan import Precision

Verdict = Literal["resident", "hybrid", "cpu_only", "would_swap", "does_not_fit"]

VERDICTS: dict[Verdict, str] = {
    "resident": "Every block is on a GPU.",
    "hybrid": "Some blocks are on a GPU, the others in RAM.",
    "cpu_only": "No block is on a GPU; all of them run from RAM.",
    "would_swap": "RAM needed is more than is available, though less than there is: it runs only by"
    " pushing other programs out, at the speed of the disk.",
    "does_not_fit": "It needs more memory than a device has, or more context than the model takes.",
}
"""Every verdict with its meaning, from best to worst."""

LimitKind = Literal["headroom", "next_block", "short", "context", "speed"]


@dataclass(frozen=True)
class Limit:
    """The constraint that binds: `where` is gpu0, gpu1, ..., ram, or context (in tokens).

    `needed` and `available` are bytes (tokens for the context). Kinds: `headroom`: everything fits
    and this device is the fullest; `next_block`: one more block would need this much; `short`: what
    is placed there does not fit; `context`: the model takes no more; `speed`: more blocks would fit
    but the plan is faster without.
    """

    kind: LimitKind
    where: str
    needed: int
    available: int


@dataclass(frozen=True)
class Cell:
    """One question with its verdict; bytes are estimated, seconds are as `speed_provenance` says.

    Tuples hold one number per GPU, in order. Seconds are None where the model would not run well
    enough for them to mean anything (would_swap, does_not_fit). `ttft_seconds` is for a prompt of
    `prompt_tokens`; `step_seconds` gives one token to each slot, at a full context.
    """

    model: str
    machine: str
    policy: str
    gpu_precision: Precision
    cpu_precision: Precision
    context_tokens: int
    slots: int
    verdict: Verdict
    limit: Limit
    blocks: int
    blocks_by_gpu: tuple[int, ...]
    lm_head_device: str
    vram_needed_bytes: tuple[int, ...]
    vram_free_bytes: tuple[int, ...]
    ram_needed_bytes: int
    ram_available_bytes: int
    step_seconds: float | None
    tokens_per_second: float | None  # all slots together
    ttft_seconds: float | None
    prompt_tokens: int
    speed_provenance: SpeedProvenance

    @property
    def gpu_blocks(self) -> int:
        """Blocks on all GPUs together."""
        return sum(self.blocks_by_gpu)

    @property
    def fits(self) -> bool:
        """Whether it runs without swapping."""
        return self.verdict not in ("would_swap", "does_not_fit")

    @property
    def tokens_per_second_per_slot(self) -> float | None:
        """Tokens that each running request gets, at a full context."""
        return None if self.step_seconds is None else 1 / self.step_seconds
