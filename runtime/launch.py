"""From a plan to what really starts: files, the backend that exists, and what to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from runtime.bundle import Bundle, select_variant
from runtime.manifest import Layout, Variant
from scheduler.backend_names import Engine
from scheduler.cost import device_kind
from scheduler.errors import PlanError
from scheduler.memory import stage_peaks
from scheduler.model import ModelSpec
from scheduler.plan import Plan, Precision, Stage
from scheduler.units import format_size

_CPU_BACKENDS = ("mnn:cpu", "ort:cpu")
# Other GPU backends need an MNN built from source, for which there is no one command.
_EXTRAS = {
    "ort:webgpu": "gpu",
    "ort:cuda": "cuda",
    "ort:directml": "directml",
    "ort:openvino": "openvino",
}


@dataclass(frozen=True)
class StageLaunch:
    """One worker to start; `asked_backend` is the plan's, `backend` the one that really runs."""

    device: str
    asked_backend: str
    backend: str
    cuda_device: str | None  # what CUDA_VISIBLE_DEVICES must say: the one GPU of this worker
    threads: int
    block_files: tuple[tuple[int, Path], ...]
    lm_head_file: Path | None
    layout: Layout = "glm-plan"
    precision: Precision = "fp32"
    fine_scales: bool = False  # activations quantised in groups as small as the weights'
    memory_limit_bytes: int | None = None  # what the plan was given of the device's memory

    @property
    def block_span(self) -> str:
        """Blocks as people read them: ``0-22``, or ``none``."""
        if not self.block_files:
            return "none"
        return f"{self.block_files[0][0]}-{self.block_files[-1][0]}"

    @property
    def on_cpu(self) -> bool:
        """Whether the stage computes in RAM, whatever device it was planned for."""
        return self.backend in _CPU_BACKENDS

    @property
    def fallback(self) -> str | None:
        """What every output must say when the asked backend does not exist here."""
        if self.asked_backend == self.backend:
            return None
        asked, really = (name.partition(":")[2] for name in (self.asked_backend, self.backend))
        if asked == really:  # another engine
            return f"asked for {self.asked_backend}, running on {self.backend}"
        return f"asked for {asked.upper()}, running on {really.upper()}"

    @property
    def remedy(self) -> str | None:
        """The one command that would add what the plan asked for and is missing here."""
        if self.fallback is None or self.asked_backend in _CPU_BACKENDS:
            return None
        extra = _EXTRAS.get(self.asked_backend)
        if extra is not None:
            return f"pip install 'glm-plan[{extra}]' adds {self.asked_backend}"
        return "pip install 'glm-plan[gpu]' adds GPUs of any vendor, for --gpu-backend ort:webgpu"

    @property
    def notice(self) -> str | None:
        """What is not as planned and how to change it, in one line."""
        if self.fallback is None:
            return None
        return f"{self.device}: {self.fallback}" + (f"; {self.remedy}" if self.remedy else "")


def launches_of(
    plan: Plan,
    bundle: Bundle,
    working_backends: frozenset[str],
    cuda_devices: Mapping[str, str],
    threads: int,
) -> list[StageLaunch]:
    """What to start, stage by stage; a backend that does not work here becomes a CPU backend.

    `working_backends` holds names such as ``mnn:cuda`` that were proved on this machine,
    `cuda_devices` the identity of each GPU (gpu0 -> its UUID), since CUDA numbers devices in an
    order of its own. Raises BundleError when the bundle lacks what the plan needs, PlanError for a
    GPU that is not here.
    """
    _require_one_adapter(plan, working_backends)
    return [
        launch_of(stage, bundle, working_backends, cuda_devices, threads) for stage in plan.stages
    ]


def launch_of(
    stage: Stage,
    bundle: Bundle,
    working: frozenset[str],
    cuda_devices: Mapping[str, str],
    threads: int,
) -> StageLaunch:
    """What to start for one stage, as `launches_of`."""
    backend = stage.backend if stage.backend in working else _cpu_backend(bundle, working)
    on_cuda = backend.endswith(":cuda")
    if on_cuda and stage.device not in cuda_devices:
        raise PlanError(
            f"the plan uses {stage.device} and this machine has"
            f" {', '.join(cuda_devices) or 'no GPU'}; plan for the GPUs that are here."
        )
    blocks = [
        (number, _variant(bundle, f"block_{number}", backend, stage.precision))
        for number in stage.blocks
    ]
    lm_head = None
    if stage.lm_head_precision is not None:
        lm_head = _variant(bundle, "lm_head", backend, stage.lm_head_precision)
    variants = [one for _, one in blocks] + ([lm_head] if lm_head else [])
    return StageLaunch(
        device=stage.device,
        asked_backend=stage.backend,
        backend=backend,
        cuda_device=cuda_devices[stage.device] if on_cuda else None,
        threads=threads,
        block_files=tuple((number, bundle.file(one.files[0])) for number, one in blocks),
        lm_head_file=bundle.file(lm_head.files[0]) if lm_head else None,
        layout=bundle.layout,
        precision=stage.precision,
        fine_scales=any(one.fine_scales for one in variants),
        memory_limit_bytes=None if backend in _CPU_BACKENDS else stage.free_bytes,
    )


def _require_one_adapter(plan: Plan, working: frozenset[str]) -> None:
    """WebGPU gives every process the same adapter, the first one."""
    devices = [stage.device for stage in plan.stages if stage.backend == "ort:webgpu"]
    if "ort:webgpu" in working and len(devices) > 1:
        raise PlanError(
            f"the plan puts {' and '.join(devices)} on ort:webgpu, which knows one adapter; plan"
            " for one GPU, or use a backend that can tell them apart, such as ort:cuda."
        )


def _cpu_backend(bundle: Bundle, working: frozenset[str]) -> str:
    """What serves a stage whose own backend does not work: the first CPU backend with files."""
    engines = {variant.engine for variant in bundle.manifest.parts[0].variants}
    usable = [name for name in _CPU_BACKENDS if name in working and name[:3] in engines]
    return usable[0] if usable else _CPU_BACKENDS[0]


def _variant(bundle: Bundle, part: str, backend: str, precision: Precision) -> Variant:
    engine = cast("Engine", backend.partition(":")[0])
    return select_variant(bundle.manifest, part, engine, precision).variant


def ram_needed(plan: Plan, spec: ModelSpec, launches: list[StageLaunch]) -> int:
    """Bytes of RAM that all processes take together, with stages that fell back to the CPU there.

    Estimated, as the plan is.
    """
    needed_bytes = plan.ram.needed_bytes
    if not any(
        launch.fallback or (launch.device != "cpu" and launch.backend in _CPU_BACKENDS)
        for launch in launches
    ):
        return needed_bytes
    peaks = []
    for stage, launch in zip(plan.stages, launches, strict=True):
        if not launch.on_cpu:
            continue
        needed_bytes -= stage.memory.total_bytes if stage.device == "cpu" else stage.host_bytes
        peaks.append(
            stage_peaks(
                spec,
                device_kind("cpu", launch.backend),
                len(stage.blocks),
                stage.precision,
                stage.lm_head_precision,
                plan.context_tokens,
                plan.slots,
                launch.threads,
            )
        )
    return needed_bytes + max(map(sum, zip(*peaks, strict=True)))


def check_ram(
    plan: Plan, spec: ModelSpec, launches: list[StageLaunch], available_bytes: int
) -> None:
    """Refuse to start what RAM cannot hold, counting stages that fell back to the CPU there.

    Raises PlanError with the bytes needed and available and what would help.
    """
    needed_bytes = ram_needed(plan, spec, launches)
    if needed_bytes <= available_bytes:
        return
    fallen = [launch for launch in launches if launch.fallback is not None]
    cause = "".join(f" ({launch.device} {launch.fallback})" for launch in fallen)
    remedy = "choose a lower --precision or a smaller --context"
    if fallen:
        added = dict.fromkeys(launch.remedy for launch in fallen if launch.remedy)
        remedy = ", or ".join([remedy, *added])
    raise PlanError(
        f"running {plan.model} needs {format_size(needed_bytes)} of RAM{cause} and"
        f" {format_size(available_bytes)} are available; {remedy}."
    )


def check_vram(
    plan: Plan, launches: list[StageLaunch], free_bytes: Mapping[str, int | None]
) -> list[str]:
    """Compare what GPU stages need with what their devices have free now; returns warnings.

    `free_bytes` by device, None where nobody tells. A plan by `fit` must fit as a whole. The rule
    of `reserve` decides by its own formula, so that only weights, lm_head and the runtime must fit,
    and the rest is warned about. Raises PlanError for what cannot be loaded.
    """
    warnings = []
    for stage, launch in zip(plan.stages, launches, strict=True):
        free = free_bytes.get(stage.device)
        if launch.on_cpu or free is None:
            continue
        memory = stage.memory
        loaded = memory.weights_bytes + memory.lm_head_bytes + memory.runtime_bytes
        needed = memory.total_bytes if plan.policy == "fit" else loaded
        if needed > free:
            raise PlanError(
                f"{stage.device} needs {format_size(needed)} for blocks {launch.block_span}"
                f" (estimated) and {format_size(free)} are free now; end what else uses it, plan"
                " anew for what is free, or choose fewer --gpu-blocks."
            )
        if memory.total_bytes > free:
            warnings.append(
                f"{stage.device} needs {format_size(memory.total_bytes)} at full context"
                f" (estimated) and {format_size(free)} are free now."
            )
    return warnings
