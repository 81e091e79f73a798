"""NVIDIA GPUs through NVML: memory now, peak bandwidth, and who else is using them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from scheduler.hardware import Gpu, GpuProcess
from scheduler.probe.visible import numbers_are_ambiguous, visible_gpus

_T = TypeVar("_T")
_NO_MEASURE = "so no memory of NVIDIA GPUs can be measured"


@dataclasses.dataclass(frozen=True)
class NvmlReading:
    """What NVML said; `answered`: it counted the GPUs, so that any other NVIDIA GPU is hidden."""

    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...]
    answered: bool = False


def probe_gpus(
    environment: Mapping[str, str], platform: str
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The NVIDIA GPUs of `read_nvml`, and its notes."""
    reading = read_nvml(environment, platform)
    return reading.gpus, reading.notes


def read_nvml(environment: Mapping[str, str], platform: str) -> NvmlReading:
    """Ask NVML about every GPU that CUDA_VISIBLE_DEVICES leaves visible.

    The GPUs are named gpu0, gpu1, ... in the order of CUDA_VISIBLE_DEVICES (PCI order without it);
    notes are full sentences about what could not be found out. NVML is started and shut down within
    the call, so free memory is measured each time.
    """
    try:
        import pynvml  # late: a plan with --vram never needs it
    except ImportError:
        return NvmlReading(
            (),
            (
                "The Python package nvidia-ml-py is not installed (pip install nvidia-ml-py),"
                f" {_NO_MEASURE}.",
            ),
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return NvmlReading((), (_why_not_started(pynvml, error, platform),))
    try:
        return NvmlReading(*_read_machine(pynvml, environment), answered=True)
    except pynvml.NVMLError as error:
        return NvmlReading((), (f"NVML started but then failed ({error}), {_NO_MEASURE}.",))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _why_not_started(pynvml: Any, error: Any, platform: str) -> str:
    library = "nvml.dll" if platform == "win32" else "libnvidia-ml.so.1"
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        if platform == "darwin":
            return f"NVML does not exist on macOS, {_NO_MEASURE}."
        return (
            f"No NVIDIA driver was found ({library} could not be loaded), {_NO_MEASURE};"
            " install the NVIDIA driver if this machine has such a GPU."
        )
    advice = {
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "The NVIDIA driver is installed but not loaded",
            "load it (sudo modprobe nvidia) or restart the machine",
        ),
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "The NVIDIA library and the loaded driver have different versions",
            "restart the machine to finish the driver update",
        ),
        pynvml.NVML_ERROR_NO_PERMISSION: (
            "The NVIDIA driver refused this user (insufficient permissions)",
            "check who may read and write the device files /dev/nvidia*",
        ),
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: (
            "The NVIDIA driver is too old for nvidia-ml-py",
            "update the driver",
        ),
    }
    what, remedy = advice.get(
        error.value, (f"NVML could not be started ({error})", "see what nvidia-smi says")
    )
    return f"{what}, {_NO_MEASURE}; {remedy}."


def _read_machine(
    pynvml: Any, environment: Mapping[str, str]
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    count = pynvml.nvmlDeviceGetCount()
    if count == 0:
        return (), ("The NVIDIA driver works but reports no GPU.",)
    found = [_read_gpu(pynvml, index) for index in range(count)]
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    order, notes = visible_gpus(setting, [gpu.uuid for gpu, _ in found])
    models = {gpu.model_name for gpu, _ in found}
    if len(models) > 1 and numbers_are_ambiguous(setting, environment.get("CUDA_DEVICE_ORDER")):
        notes.append(
            f"CUDA_VISIBLE_DEVICES={setting} was read in PCI order, but CUDA by default counts the"
            " fastest GPU first; set CUDA_DEVICE_ORDER=PCI_BUS_ID or name GPUs by UUID."
        )
    gpus = []
    for position, index in enumerate(order):
        gpu, problems = found[index]
        gpus.append(dataclasses.replace(gpu, name=f"gpu{position}"))
        notes += [f"gpu{position} ({gpu.model_name}): {problem}" for problem in problems]
    return tuple(gpus), tuple(notes)


class _Fields:
    """Reads single fields of one GPU; what NVML refuses is collected instead of raised."""

    def __init__(self, pynvml: Any) -> None:
        self._errors = (pynvml.NVMLError, ValueError)
        self.missing: list[str] = []

    def read(self, what: str, *attempts: Callable[[], _T]) -> _T | None:
        """Return the first attempt that succeeds; None, remembered as missing, where none does."""
        reason: Exception | None = None
        for attempt in attempts:
            try:
                return attempt()
            except self._errors as error:  # noqa: PERF203 (two attempts at most)
                reason = reason or error
        self.missing.append(f"{what} ({reason})")
        return None


def _read_gpu(pynvml: Any, index: int) -> tuple[Gpu, list[str]]:
    """Read GPU number `index` (PCI order) and say what is missing."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        lost = Gpu("", "unknown GPU", total_bytes=None, free_bytes=None, vendor="NVIDIA")
        return lost, [f"NVML cannot reach it ({error}), so it will not be used."]
    fields = _Fields(pynvml)
    model = fields.read("model name", lambda: pynvml.nvmlDeviceGetName(handle))
    # The newer call keeps what the driver reserves apart from `used`; old drivers lack it.
    memory = fields.read(
        "memory",
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),
    )
    bus_bits = fields.read("bus width", lambda: pynvml.nvmlDeviceGetMemoryBusWidth(handle))
    clock_mhz = fields.read(
        "memory clock",
        lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM),
    )
    capability = fields.read(
        "compute capability", lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    )
    gpu = Gpu(
        name="",
        model_name=model or "unknown GPU",
        total_bytes=memory.total if memory else None,
        free_bytes=memory.free if memory else None,
        used_bytes=memory.used if memory else None,
        driver=fields.read("driver version", pynvml.nvmlSystemGetDriverVersion),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        bus_width_bits=bus_bits or None,
        memory_clock_mhz=clock_mhz or None,
        bandwidth_gbps=peak_bandwidth_gbps(bus_bits, clock_mhz),
        display_attached=fields.read(
            "display",
            lambda: bool(pynvml.nvmlDeviceGetDisplayActive(handle)),
            lambda: bool(pynvml.nvmlDeviceGetDisplayMode(handle)),
        ),
        uuid=fields.read("UUID", lambda: pynvml.nvmlDeviceGetUUID(handle)),
        processes=fields.read("processes", lambda: _processes(pynvml, handle)),
        vendor="NVIDIA",
        memory_source="NVML" if memory else None,
        pci_address=fields.read("PCI address", lambda: _pci_address(pynvml, handle)),
    )
    problems = []
    if fields.missing:
        problems.append(f"NVML does not report {', '.join(fields.missing)}.")
    if _is_split(pynvml, handle):
        gpu = dataclasses.replace(gpu, free_bytes=None, used_bytes=None)
        problems.append(
            "it is split into MIG instances, whose free memory glm-plan cannot measure;"
            " give it with --vram."
        )
    return gpu, problems


def peak_bandwidth_gbps(bus_width_bits: int | None, memory_clock_mhz: int | None) -> float | None:
    """Estimate peak memory bandwidth in 10^9 bytes per second; None where a number is unknown or 0.

    NVML reports the clock at half the data rate for GDDR and HBM alike, hence the factor of two.
    RTX 3090: 384 bit, 9751 MHz, 936 GB/s; A100 40GB: 5120 bit, 1215 MHz, 1555 GB/s (data sheets).
    """
    if not bus_width_bits or not memory_clock_mhz:
        return None
    return bus_width_bits / 8 * memory_clock_mhz * 1e6 * 2 / 1e9


def _pci_address(pynvml: Any, handle: Any) -> str:
    """As sysfs writes it: NVML's domain has eight digits, of which the kernel shows four."""
    bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
    text: str = bus_id.decode("ascii") if isinstance(bus_id, bytes) else bus_id
    domain, _, rest = text.partition(":")
    return f"{int(domain, 16):04x}:{rest}".lower()


def _processes(pynvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    by_pid: dict[int, GpuProcess] = {}
    for ask in (
        pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
    ):
        for entry in ask(handle):
            by_pid[entry.pid] = GpuProcess(pid=entry.pid, used_bytes=entry.usedGpuMemory)
    return tuple(by_pid[pid] for pid in sorted(by_pid))


def _is_split(pynvml: Any, handle: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:
        return False  # only data-centre GPUs know the word
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)
