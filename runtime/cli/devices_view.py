"""The terminal view of `glm-plan devices`: a section per device and engine, numbers labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scheduler.hardware import Cpu, Gpu, GpuProcess, Host
from scheduler.units import format_size

if TYPE_CHECKING:
    from runtime.backends.proof import BackendReport
    from runtime.backends.self_test_report import SelfTest

# Label, value, and how the value came about ("" for what is no number).
_Row = tuple[str, str, str]


def show(
    host: Host, reports: Sequence[BackendReport], tests: Mapping[str, SelfTest], hint: str
) -> None:
    """Print devices, engines, notes and the hint to stdout."""
    console = Console(highlight=False, markup=False)
    for gpu in host.gpus:
        _section(console, gpu.name, gpu.model_name, gpu_rows(gpu))
    _section(console, "cpu", host.cpu.model_name, cpu_rows(host.cpu))
    for report in reports:
        version = report.version or "version unknown"
        _section(console, report.engine, version, backend_rows(report, tests))
    for note in host.notes:
        console.print(Text("note  ", style="yellow") + Text(note), soft_wrap=True)
    console.print(Text("next  ", style="green") + Text(hint), soft_wrap=True)


def gpu_rows(gpu: Gpu) -> list[_Row]:
    """Memory, bandwidth, driver and users of one GPU."""
    rows = [_memory_row(gpu.free_bytes, gpu.total_bytes, "free", gpu.memory_source)]
    if gpu.shares_ram:
        rows.append(("", "the processor's RAM, counted once", ""))
    if gpu.bandwidth_gbps is None:
        rows.append(("bandwidth", "unknown", ""))
    else:
        rows.append(
            (
                "bandwidth",
                f"{gpu.bandwidth_gbps:.0f} GB/s peak ({gpu.bus_width_bits} bit,"
                f" {gpu.memory_clock_mhz} MHz)",
                "estimated",
            )
        )
    if gpu.compute_capability:
        rows.append(("compute", f"capability {gpu.compute_capability}", ""))
    if gpu.driver:
        rows.append(("driver", gpu.driver, ""))
    if gpu.display_attached:
        rows.append(("display", "attached: its windows come and go in this memory", ""))
    if gpu.processes:
        rows.append(("in use by", ", ".join(map(_process, gpu.processes)), "measured"))
    if gpu.uuid:
        rows.append(("uuid", gpu.uuid, ""))
    return rows


def cpu_rows(cpu: Cpu) -> list[_Row]:
    """Memory, cores and instruction sets of the host."""
    return [
        _memory_row(cpu.available_bytes, cpu.total_bytes, "available"),
        ("cores", f"{cpu.usable_cores} usable of {cpu.physical_cores}", "measured"),
        ("instructions", " ".join(cpu.instruction_sets) or "unknown", ""),
    ]


def backend_rows(report: BackendReport, tests: Mapping[str, SelfTest]) -> list[_Row]:
    """Every backend of an engine with the reason for its state, and its self-test."""
    rows = []
    for backend in report.backends:
        text, origin = f"{backend.status.replace('_', ' ')}: {backend.reason}", ""
        if backend.relative_error is not None:
            text += f" Relative error {backend.relative_error:.1e}."
            origin = "measured"
        name = f"{report.engine}:{backend.kind}"
        rows.append((name, text, origin))
        if name in tests:
            rows += _test_rows(tests[name])
    return rows


def _test_rows(test: SelfTest) -> list[_Row]:
    rows: list[_Row] = [
        (
            f"  {one.precision}",
            f"relative error {one.relative_error:.1e}, {one.step_ms:.2f} ms a token,"
            f" {one.prompt_ms:.1f} ms for a prompt of 32",
            "measured",
        )
        for one in test.results
    ]
    if test.problem:
        rows.append(("  failed", f"{test.problem}.", ""))
    return rows


def _memory_row(
    free_bytes: int | None, total_bytes: int | None, word: str, source: str | None = None
) -> _Row:
    free = "unknown" if free_bytes is None else format_size(free_bytes)
    total = "an unknown total" if total_bytes is None else format_size(total_bytes)
    measured = "measured" if free_bytes is not None or total_bytes is not None else ""
    if measured and source:
        measured += f" ({source})"
    return ("memory", f"{free} {word} of {total}", measured)


def _process(process: GpuProcess) -> str:
    size = "unknown size" if process.used_bytes is None else format_size(process.used_bytes)
    return f"pid {process.pid} ({size})"


def _section(console: Console, name: str, title: str, rows: list[_Row]) -> None:
    console.print(Text(f"{name}  ", style="bold cyan") + Text(title, style="bold"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_column(no_wrap=True, style="dim")
    for label, value, origin in rows:
        grid.add_row(Text(f"  {label}"), Text(value), Text(origin))
    console.print(grid)
    console.print()
