"""PlanRequest: what a user asks of the planner, checked, and spelled back as a command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from scheduler.errors import UserInputError
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.units import GIB, MIB

DEFAULT_CONTEXT = 2048
LARGEST_SLOTS = 1024
RUNNABLE_FAMILIES = frozenset({"chatglm"})
"""Model families that can be exported and run; any dense decoder can be planned."""


@dataclass(frozen=True)
class PlanRequest:
    """A question to the planner; None means: decide from the model and the host.

    `vram_bytes` is the free memory of each GPU in order and replaces what was measured.
    `reserve_bytes` stays free on every GPU. `gpu_blocks` overrules the policy. `context` is in
    tokens, for each of `slots` running requests. `bundle` is the directory that the plan's command
    shall name; None: the model ships with glm-plan.
    """

    model: ModelSpec
    vram_bytes: tuple[int, ...] | None = None
    gpu_precision: Precision = "fp16"
    cpu_precision: Precision = "fp32"
    reserve_bytes: int | None = None
    gpu_blocks: int | None = None
    context: int | None = None
    slots: int = 1
    policy: Literal["reserve"] = "reserve"
    bundle: str | None = None

    @property
    def context_tokens(self) -> int:
        """The context asked for, or 2048 tokens where the model takes as many."""
        if self.context is None:
            return min(DEFAULT_CONTEXT, self.model.max_context)
        return self.context


def check_request(request: PlanRequest) -> None:
    """Raise UserInputError for a context, slot count or block count that makes no sense."""
    spec = request.model
    if not 1 <= request.context_tokens <= spec.max_context:
        raise UserInputError(
            f"--context is {request.context_tokens}; {spec.name} takes 1 to {spec.max_context}"
            " tokens."
        )
    if not 1 <= request.slots <= LARGEST_SLOTS:
        raise UserInputError(f"--slots is {request.slots}; expected 1 to {LARGEST_SLOTS}.")
    if request.gpu_blocks is not None and request.gpu_blocks < 0:
        raise UserInputError(
            f"--gpu-blocks is {request.gpu_blocks}; expected 0 to {spec.blocks}, the blocks of"
            f" {spec.name}."
        )


def run_command(request: PlanRequest) -> str:
    """Spell the command that makes this plan again and answers a prompt with it."""
    source = ["--model", request.model.name]
    if request.bundle is not None:
        source = ["--bundle", shlex.quote(request.bundle)]
    words = ["glm-plan run", *source]
    for free_bytes in request.vram_bytes or ():
        words += ["--vram", flag_size(free_bytes)]
    gpu, cpu = request.gpu_precision, request.cpu_precision
    if gpu == cpu:
        words += ["--precision", gpu]
    else:
        words += ["--gpu-precision", gpu, "--cpu-precision", cpu]
    if request.reserve_bytes is not None:
        words += ["--reserve", flag_size(request.reserve_bytes)]
    if request.gpu_blocks is not None:
        words += ["--gpu-blocks", str(request.gpu_blocks)]
    if request.context is not None:
        words += ["--context", str(request.context)]
    if request.slots != 1:
        words += ["--slots", str(request.slots)]
    return " ".join([*words, '"Hello"'])


def flag_size(size_bytes: int) -> str:
    """Print the shortest amount that `parse_size` reads back exactly: ``11``, ``11000MiB``."""
    if size_bytes % GIB == 0:
        return str(size_bytes // GIB)
    return f"{size_bytes // MIB}MiB" if size_bytes % MIB == 0 else f"{size_bytes}B"
