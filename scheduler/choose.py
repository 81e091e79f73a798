"""Choose for the user, under `fit`, what was left open: precision, then context; and say what for.

Precisions are tried from the most faithful down, and the first that decodes at a usable speed is
taken. Only where none fits does the context shrink.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from scheduler.cost import Speeds
from scheduler.cpu_backend import with_cpu_backends
from scheduler.errors import PlanError
from scheduler.fit import FitQuestion, Fitting, Room, does_not_fit, try_fit
from scheduler.free_memory import FreeMemory
from scheduler.memory import ASSUMED_THREADS
from scheduler.plan import Precision
from scheduler.request import PlanRequest
from scheduler.units import GIB, format_size

USABLE_TOKENS_PER_SECOND = 3.0
"""Decode speed of one slot below which a smaller precision is tried: people read 3 to 5 words a
second, and the published hybrid run of ChatGLM-6B, called usable by its authors, made 3.4."""

LEVELS: tuple[tuple[Precision, Precision], ...] = (
    ("fp16", "fp32"),
    ("fp16", "int8"),
    ("fp16", "int4"),
    ("int4", "int4"),
)
"""Precisions of GPU and CPU, most faithful first. fp16 is how models are published, and MNN expands
it to fp32 on the CPU: nothing is lost. int8 on CUDA is left out, MNN 3.6 computes it wrongly."""

_SMALLEST_CONTEXT = 128
_MORE_BYTES = (1 * GIB, 2 * GIB, 4 * GIB, 8 * GIB)
_WORTH_TELLING = 1.1
_MOST_OFFERED_SLOTS = 16


@dataclass(frozen=True)
class Devices:
    """What a placement may use: GPUs in order, the RAM, the speed of each device, and threads.

    `threads` are those of a stage on the CPU.
    """

    gpus: tuple[FreeMemory, ...]
    ram: FreeMemory
    speeds: Speeds
    threads: int = ASSUMED_THREADS


@dataclass(frozen=True)
class Chosen:
    """The request with every choice settled, its placement, and what to tell about the choices."""

    request: PlanRequest
    fitting: Fitting
    notes: tuple[str, ...]


def question_of(request: PlanRequest, devices: Devices) -> FitQuestion:
    """Put a settled request as a question to `fit`; GPUs of unknown memory stay out."""
    kept = request.reserve_bytes or 0
    rooms = [
        Room(
            gpu.device,
            max(0, gpu.free_bytes - kept),
            request.gpu_precision,
            gpu.shares_ram,
            gpu.backend,
        )
        for gpu in devices.gpus
        if gpu.free_bytes is not None
    ]
    backend = request.cpu_backend or devices.ram.backend
    rooms.append(Room("cpu", devices.ram.free_bytes, request.cpu_precision, backend=backend))
    return FitQuestion(
        request.model,
        tuple(rooms),
        request.context_tokens,
        request.slots,
        devices.speeds,
        request.objective,
        devices.threads,
    )


def choose(request: PlanRequest, devices: Devices) -> Chosen:
    """Settle what `request.open_choices` leaves open and place the model.

    Raises PlanError with needed and available bytes where nothing fits, however small.
    """
    asked_context = request.context_tokens
    for context in _contexts(request):
        smaller = candidates(replace(request, context=context), devices)
        placed = [
            found
            for candidate in smaller
            if (found := _on_best_backend(candidate, devices)) is not None
        ]
        if placed:
            settled, fitting = _first_usable(placed)
            notes = [
                *_context_note(settled, asked_context),
                *_precision_notes(request, settled, fitting, placed),
                *_slots_note(request, settled, fitting, devices),
                *_memory_notes(request, settled, fitting, devices),
            ]
            return Chosen(settled, fitting, tuple(notes))
        smallest = smaller[-1]
    raise PlanError(does_not_fit(question_of(smallest, devices), _ways_out(smallest)))


def _on_best_backend(request: PlanRequest, devices: Devices) -> tuple[PlanRequest, Fitting] | None:
    """The request with the CPU backend that the objective prefers, and its placement."""
    placed = [
        (candidate, fitting)
        for candidate in with_cpu_backends(request, devices.speeds)
        if (fitting := try_fit(question_of(candidate, devices))) is not None
    ]
    by_slowest = request.objective == "throughput"
    return min(
        placed,
        key=lambda one: one[1].slowest_stage_seconds if by_slowest else one[1].step_seconds,
        default=None,
    )


def _ways_out(request: PlanRequest) -> str:
    smallest = request.gpu_precision == "int4" and request.cpu_precision == "int4"
    flags = [] if smallest else ["--precision int4"]
    if request.context_tokens > _SMALLEST_CONTEXT:
        flags.append("a smaller --context")
    if request.slots > 1:
        flags.append("fewer --slots")
    return f"Try {' or '.join(flags)}." if flags else "It needs a machine with more memory."


def _contexts(request: PlanRequest) -> Iterator[int]:
    yield (context := request.context_tokens)
    while "context" in request.open_choices and context // 2 >= _SMALLEST_CONTEXT:
        context //= 2
        yield context


def candidates(request: PlanRequest, devices: Devices) -> list[PlanRequest]:
    """The request at every precision that it leaves open, most faithful first, each once."""
    gpu_open = "gpu_precision" in request.open_choices and bool(devices.gpus)
    cpu_open = "cpu_precision" in request.open_choices
    pairs = [
        (gpu if gpu_open else request.gpu_precision, cpu if cpu_open else request.cpu_precision)
        for gpu, cpu in _levels(request)
    ]
    return [
        replace(request, gpu_precision=gpu, cpu_precision=cpu) for gpu, cpu in dict.fromkeys(pairs)
    ]


def _levels(request: PlanRequest) -> Sequence[tuple[Precision, Precision]]:
    """The levels that the bundle can serve; MNN runs fp32 on the CPU from fp16 files."""
    stored = request.stored
    if stored is None:
        return LEVELS
    on_cpu = stored | {"fp32"} if "fp16" in stored else stored
    served = [(gpu, cpu) for gpu, cpu in LEVELS if gpu in stored and cpu in on_cpu]
    faithful_first: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
    return served or [(one, one) for one in faithful_first if one in stored]


def _first_usable(
    candidates: Sequence[tuple[PlanRequest, Fitting]],
) -> tuple[PlanRequest, Fitting]:
    for candidate in candidates:
        if _rate(candidate[1]) >= USABLE_TOKENS_PER_SECOND:
            return candidate
    return max(candidates, key=lambda candidate: _rate(candidate[1]))


def _rate(fitting: Fitting) -> float:
    return 1 / fitting.step_seconds


def _context_note(settled: PlanRequest, asked_context: int) -> Iterator[str]:
    if settled.context_tokens < asked_context:
        yield (
            f"Given up: {asked_context} tokens of context fit at no precision, so"
            f" {settled.context_tokens} were chosen; --context sets another size."
        )


def _precision_notes(
    request: PlanRequest,
    settled: PlanRequest,
    fitting: Fitting,
    candidates: Sequence[tuple[PlanRequest, Fitting]],
) -> Iterator[str]:
    if not {"gpu_precision", "cpu_precision"} & request.open_choices:
        return
    rate = _rate(fitting)
    usable = f"a usable speed ({USABLE_TOKENS_PER_SECOND:g} tok/s)"
    if rate < USABLE_TOKENS_PER_SECOND:
        reason = f"no precision that fits reaches {usable}, and this one is fastest"
    else:
        reason = f"the most faithful that fits and reaches {usable}"
    yield f"Chosen: {_precision_text(settled, fitting)}, {rate:.3g} tok/s (estimated): {reason}."
    others = [
        f"{_precision_text(other, placed)} {_rate(placed):.3g} tok/s"
        for other, placed in candidates
        if other != settled
    ]
    if others:
        yield f"Also possible (estimated): {', '.join(others)}."


def _precision_text(request: PlanRequest, fitting: Fitting) -> str:
    """The precisions that a placement really uses: ``fp16 on the GPU, int8 on the CPU``."""
    kinds = {stage.device == "cpu" for stage in fitting.stages}
    told = []
    if False in kinds:
        told.append(f"{request.gpu_precision} on the GPU")
    if True in kinds:
        told.append(f"{request.cpu_precision} on the CPU")
    return " and ".join(told)


def _slots_note(
    request: PlanRequest, settled: PlanRequest, fitting: Fitting, devices: Devices
) -> Iterator[str]:
    if "slots" not in request.open_choices:
        return
    slots, together = 1, _rate(fitting)
    while slots < _MOST_OFFERED_SLOTS:
        more = try_fit(question_of(replace(settled, slots=2 * slots), devices))
        if more is None or 2 * slots * _rate(more) < _WORTH_TELLING * together:
            break
        slots, together = 2 * slots, 2 * slots * _rate(more)
    if slots > 1:
        yield (
            f"One request at a time was assumed; --slots {slots} fits too and gives"
            f" {together:.3g} tok/s together (estimated)."
        )


def _memory_notes(
    request: PlanRequest, settled: PlanRequest, fitting: Fitting, devices: Devices
) -> Iterator[str]:
    """What the smallest worthwhile addition of VRAM, and of RAM, would bring."""
    known = [place for place, gpu in enumerate(devices.gpus) if gpu.free_bytes is not None]
    upgrades = [("VRAM", place) for place in known[:1] if not devices.gpus[place].shares_ram]
    if devices.ram.free_bytes is not None:
        shared = any(gpu.shares_ram for gpu in devices.gpus)
        upgrades.append(("shared memory" if shared else "RAM", -1))
    for kind, place in upgrades:
        for more_bytes in _MORE_BYTES:
            told = _gain(request, settled, fitting, _enlarged(devices, place, more_bytes))
            if told is not None:
                yield f"With {format_size(more_bytes)} more {kind}: {told} (estimated)."
                break


def _enlarged(devices: Devices, place: int, more_bytes: int) -> Devices:
    if place < 0:
        free = (devices.ram.free_bytes or 0) + more_bytes
        return replace(devices, ram=replace(devices.ram, free_bytes=free))
    gpus = list(devices.gpus)
    gpus[place] = replace(gpus[place], free_bytes=(gpus[place].free_bytes or 0) + more_bytes)
    return replace(devices, gpus=tuple(gpus))


def _gain(
    request: PlanRequest, settled: PlanRequest, fitting: Fitting, devices: Devices
) -> str | None:
    """What a larger machine does better: a more faithful precision at a usable speed, or speed."""
    for candidate in candidates(replace(settled, open_choices=request.open_choices), devices):
        found = _on_best_backend(candidate, devices)
        if found is None:
            continue
        placed = found[1]
        same = (candidate.gpu_precision, candidate.cpu_precision) == (
            settled.gpu_precision,
            settled.cpu_precision,
        )
        rate, before = _rate(placed), _rate(fitting)
        if same:
            if rate < _WORTH_TELLING * before:
                return None
            return f"{rate:.3g} tok/s instead of {before:.3g}"
        if rate >= USABLE_TOKENS_PER_SECOND and rate > before / 2:
            return f"{_precision_text(candidate, placed)} at {rate:.3g} tok/s"
    return None
