"""PlanRequest: what a user asks of the planner, checked, and spelled back as a command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from scheduler.errors import UserInputError
from scheduler.fit_search import Objective
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.units import GIB, MIB, format_size

DEFAULT_CONTEXT = 2048
LARGEST_SLOTS = 1024
RUNNABLE_FAMILIES = frozenset(
    ("chatglm", "chatglm2", "glm", "glm4", "llama", "mistral", "qwen2", "qwen3")
)
"""Model families that can be exported and run; any dense decoder can be planned."""


Policy = Literal["reserve", "fit"]
Choice = Literal["gpu_precision", "cpu_precision", "context", "slots"]


@dataclass(frozen=True)
class PlanRequest:
    """A question to the planner; None means: decide from the model and the host.

    `vram_bytes` is the free memory of each GPU in order and replaces what was measured.
    `max_vram_bytes` caps what is used of each GPU, `reserve_bytes` stays free on it. `gpu_blocks`
    overrules the rule of `reserve`. `context` is in tokens, for each of `slots` running requests.
    `objective` and `open_choices` are for `fit`: what to make fast, and which of the fields here it
    may settle itself. `bundle` is the directory that the plan's command shall name (None: the model
    ships with glm-plan), `machine_words` the flags that describe a machine that is not here,
    `stored` the precisions that the bundle holds, among which `fit` chooses (None: any).
    `gpu_backend` and `cpu_backend` overrule what the host's devices would be run by. Where
    `cpu_backend` is None and the CPU's precision is one of `ort_precisions`, the planner may choose
    ONNX Runtime for the CPU, see `scheduler.cpu_backend`.
    """

    model: ModelSpec
    vram_bytes: tuple[int, ...] | None = None
    gpu_precision: Precision = "fp16"
    cpu_precision: Precision = "fp32"
    reserve_bytes: int | None = None
    gpu_blocks: int | None = None
    context: int | None = None
    slots: int = 1
    policy: Policy = "reserve"
    bundle: str | None = None
    max_vram_bytes: int | None = None
    objective: Objective = "latency"
    open_choices: frozenset[Choice] = frozenset()
    machine_words: tuple[str, ...] = ()
    stored: frozenset[Precision] | None = None
    gpu_backend: str | None = None
    cpu_backend: str | None = None
    ort_precisions: frozenset[Precision] = frozenset()

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
    _check_flags_agree(request)


def _check_flags_agree(request: PlanRequest) -> None:
    if request.policy == "fit" and request.gpu_blocks is not None:
        raise UserInputError(
            "--gpu-blocks sets the count by hand and --policy fit chooses it; leave one of them"
            " out."
        )
    if request.policy != "fit" and request.objective != "latency":
        raise UserInputError(
            f"--objective {request.objective} is for --policy fit; the rule of reserve has no goal"
            " to choose."
        )
    cap, kept = request.max_vram_bytes, request.reserve_bytes
    if cap is not None and kept is not None and cap <= kept:
        raise UserInputError(
            f"--max-vram {format_size(cap)} leaves nothing beside --reserve {format_size(kept)};"
            " raise the one or lower the other."
        )


def run_command(request: PlanRequest) -> str:
    """Spell the command that makes this plan again and answers a prompt with it."""
    source = ["--model", request.model.name]
    if request.bundle is not None:
        source = ["--bundle", shlex.quote(request.bundle)]
    words = ["glm-plan run", *source, *map(shlex.quote, request.machine_words)]
    for free_bytes in request.vram_bytes or ():
        words += ["--vram", flag_size(free_bytes)]
    gpu, cpu = request.gpu_precision, request.cpu_precision
    if gpu == cpu:
        words += ["--precision", gpu]
    else:
        words += ["--gpu-precision", gpu, "--cpu-precision", cpu]
    if request.policy != "reserve":
        words += ["--policy", request.policy]
    if request.objective != "latency":
        words += ["--objective", request.objective]
    if request.max_vram_bytes is not None:
        words += ["--max-vram", flag_size(request.max_vram_bytes)]
    if request.reserve_bytes is not None:
        words += ["--reserve", flag_size(request.reserve_bytes)]
    if request.gpu_blocks is not None:
        words += ["--gpu-blocks", str(request.gpu_blocks)]
    if request.context is not None or request.policy == "fit":
        words += ["--context", str(request.context_tokens)]
    if request.slots != 1:
        words += ["--slots", str(request.slots)]
    for side, backend in (("gpu", request.gpu_backend), ("cpu", request.cpu_backend)):
        words += [f"--{side}-backend", backend] if backend else []
    return " ".join([*words, '"Hello"'])


def flag_size(size_bytes: int) -> str:
    """Print the shortest amount that `parse_size` reads back exactly: ``11``, ``11000MiB``."""
    if size_bytes % GIB == 0:
        return str(size_bytes // GIB)
    return f"{size_bytes // MIB}MiB" if size_bytes % MIB == 0 else f"{size_bytes}B"
