"""Planning: what a user says about placement and the machine, and the plan it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from scheduler.backend_names import CPU_BACKENDS, GPU_BACKENDS, Engine, engines_of
from scheduler.errors import UserInputError
from scheduler.units import parse_size

if TYPE_CHECKING:
    from scheduler.cost import Speeds
    from scheduler.fit_search import Objective
    from scheduler.hardware import Host
    from scheduler.model import ModelSpec
    from scheduler.plan import Plan, Precision
    from scheduler.request import Choice, PlanRequest, Policy
    from scheduler.wanted import Wanted


@dataclass(frozen=True)
class Planning:
    """What the user said about placement; sizes in bytes, None where nothing was said."""

    model: str
    wanted: Wanted
    machine_words: tuple[str, ...]
    gpu_precision: Precision | None
    cpu_precision: Precision | None
    reserve_bytes: int | None
    max_vram_bytes: int | None
    gpu_blocks: int | None
    context: int | None
    slots: int | None
    policy: Policy
    objective: Objective
    host_name: str | None = None
    gpu_backend: str | None = None
    cpu_backend: str | None = None

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines that need files: those of the backends named, or MNN."""
        named = (name for name in (self.gpu_backend, self.cpu_backend) if name)
        return engines_of(named) or ("mnn",)

    def request(
        self,
        spec: ModelSpec,
        bundle: str | None = None,
        stored: frozenset[Precision] | None = None,
        ort_precisions: frozenset[Precision] = frozenset(),
    ) -> PlanRequest:
        """What to ask the planner.

        `bundle` is the directory that the plan's command shall name, `stored` the precisions in it,
        `ort_precisions` those at which ONNX Runtime may be chosen for the CPU.
        """
        from scheduler.request import PlanRequest

        answers: dict[Choice, object] = {
            "gpu_precision": self.gpu_precision,
            "cpu_precision": self.cpu_precision,
            "context": self.context,
            "slots": self.slots,
        }
        unanswered = {choice for choice, answer in answers.items() if answer is None}
        return PlanRequest(
            model=spec,
            bundle=bundle,
            vram_bytes=None if self.wanted.gpus else self.wanted.vram_bytes,
            gpu_precision=self.gpu_precision or "fp16",
            cpu_precision=self.cpu_precision or "fp32",
            reserve_bytes=self.reserve_bytes,
            max_vram_bytes=self.max_vram_bytes,
            gpu_blocks=self.gpu_blocks,
            context=self.context,
            slots=1 if self.slots is None else self.slots,
            policy=self.policy,
            objective=self.objective,
            open_choices=frozenset(unanswered if self.policy == "fit" else ()),
            machine_words=self.machine_words,
            stored=stored,
            gpu_backend=self.gpu_backend,
            cpu_backend=self.cpu_backend,
            ort_precisions=ort_precisions,
        )

    def plan(
        self,
        spec: ModelSpec,
        bundle: str | None = None,
        stored: frozenset[Precision] | None = None,
        ort_precisions: frozenset[Precision] = frozenset(),
    ) -> Plan:
        """Measure this host, except what the user named or stated, and plan; see `request`."""
        from scheduler.planner import make_plan

        host, speeds = self.machine()
        return make_plan(self.request(spec, bundle, stored, ort_precisions), host, speeds)

    def machine(self) -> tuple[Host, Speeds | None]:
        """The host to plan for, and its speeds where more is known than the probe finds."""
        from scheduler.calibrated import with_calibration

        host, speeds = self._estimated()
        gpus = max(len(self.wanted.vram_bytes or ()), 1)
        named = [
            name for name, flag in (("--gpu", self.wanted.gpus), ("--cpu", self.wanted.cpu)) if flag
        ]
        return with_calibration(host, speeds, self.host_name, named, self._is_here(), gpus)

    def _is_here(self) -> bool:
        """Whether the processor and its memory are this machine's."""
        return self.wanted.cpu is None and self.wanted.ram_class is None

    def _estimated(self) -> tuple[Host, Speeds | None]:
        host = self._measured()
        if self.wanted.nothing and not host.gpus:
            return host, None
        from scheduler.planned_host import plan_host, recognise

        return recognise(host) if self.wanted.nothing else plan_host(self.wanted, host)

    def _measured(self) -> Host:
        if self.wanted.vram_bytes is None and not self.wanted.gpus:
            from scheduler.probe import probe_host

            return probe_host()
        import sys
        from pathlib import Path

        from scheduler.hardware import Host
        from scheduler.probe.cpu import probe_cpu

        cpu, notes = probe_cpu(Path("/"), sys.platform)
        return Host(cpu=cpu, notes=notes)


def this_machine_planning() -> Planning:
    """What stands for a command line that says nothing about placement."""
    return read_planning("", policy="fit")


def read_planning(
    model: str,
    *,
    vram: Sequence[str] = (),
    gpus: Sequence[str] = (),
    cpu: str | None = None,
    rams: Sequence[str] = (),
    host_name: str | None = None,
    precision: str | None = None,
    gpu_precision: str | None = None,
    cpu_precision: str | None = None,
    reserve: str | None = None,
    max_vram: str | None = None,
    gpu_blocks: int | None = None,
    context: int | None = None,
    slots: int | None = None,
    policy: str = "reserve",
    objective: str = "latency",
    gpu_backend: str | None = None,
    cpu_backend: str | None = None,
) -> Planning:
    """Read the words of the planning options, which are the same on a command line and over HTTP.

    Raises UserInputError for sizes that are none and for options that contradict each other.
    """
    on_gpu, on_cpu = _precisions(precision, gpu_precision, cpu_precision)
    wanted, words = _wanted(tuple(gpus), tuple(vram), cpu, tuple(rams))
    return Planning(
        model=model,
        wanted=wanted,
        machine_words=(*words, *(("--host", host_name) if host_name else ())),
        host_name=host_name,
        gpu_precision=on_gpu,
        cpu_precision=on_cpu,
        reserve_bytes=None if reserve is None else parse_size(reserve, "--reserve"),
        max_vram_bytes=None if max_vram is None else parse_size(max_vram, "--max-vram"),
        gpu_blocks=gpu_blocks,
        context=context,
        slots=slots,
        policy=cast("Policy", policy),
        objective=cast("Objective", objective),
        gpu_backend=_known(gpu_backend, GPU_BACKENDS, "--gpu-backend"),
        cpu_backend=_known(cpu_backend, CPU_BACKENDS, "--cpu-backend"),
    )


def _known(name: str | None, names: Sequence[str], flag: str) -> str | None:
    if name is not None and name not in names:
        raise UserInputError(f"{flag} is {name!r}; expected one of {', '.join(names)}.")
    return name


def _wanted(
    gpus: tuple[str, ...], vram: tuple[str, ...], cpu: str | None, rams: tuple[str, ...]
) -> tuple[Wanted, tuple[str, ...]]:
    """What is named or stated of the machine, and the flags that say it again."""
    from scheduler.wanted import Wanted, read_ram

    vram_bytes = tuple(parse_size(text, "--vram") for text in vram) or None
    ram_bytes, ram_class = read_ram(rams)
    words = []
    for flag, values in (
        ("--gpu", gpus),
        ("--vram", vram if gpus else ()),
        ("--cpu", [cpu] if cpu else []),
        ("--ram", rams),
    ):
        words += [word for value in values for word in (flag, value)]
    return Wanted(gpus, vram_bytes, cpu, ram_bytes, ram_class), tuple(words)


def _precisions(
    both: str | None, gpu: str | None, cpu: str | None
) -> tuple[Precision | None, Precision | None]:
    """Precision of the GPU side and the CPU side; None where nothing was said."""
    one_side = "--gpu-precision" if gpu else "--cpu-precision" if cpu else None
    if both and one_side:
        raise UserInputError(
            f"--precision sets both sides and {one_side} one of them; use --precision alone, or"
            " --gpu-precision and --cpu-precision."
        )
    return cast("Precision | None", gpu or both), cast("Precision | None", cpu or both)
