"""`glm-plan devices`: what this machine has, measured now, and which backends really work."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from scheduler.hardware import Host

if TYPE_CHECKING:
    from runtime.backends.proof import BackendReport
    from runtime.backends.self_test_report import SelfTest

SCHEMA = "glm-plan/devices/1"

# How each number came about; what the driver or the system reports counts as measured.
_GPU_PROVENANCE = {
    "total_bytes": "measured",
    "free_bytes": "measured",
    "used_bytes": "measured",
    "bus_width_bits": "measured",
    "memory_clock_mhz": "measured",
    "bandwidth_gbps": "estimated",
    "processes": "measured",
}
_CPU_PROVENANCE = {
    "physical_cores": "measured",
    "usable_cores": "measured",
    "logical_cpus": "measured",
    "cpu_quota": "measured",
    "total_bytes": "measured",
    "available_bytes": "measured",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
@click.option(
    "--self-test",
    is_flag=True,
    help="Run a block at every precision on every backend that works: error and speed.",
)
def command(as_json: bool, self_test: bool) -> None:
    """Show GPUs, CPU, memory and the backends that really work.

    Everything is measured anew at each call. Backends are proved in child processes, each with a
    small computation that must agree with NumPy. A missing GPU or driver is reported, not an error.
    """
    from runtime.backends.ort_proof import prove_ort
    from runtime.backends.proof import prove_backends
    from scheduler.probe import probe_host

    host = probe_host()
    with _patience():
        nvidia = tuple(gpu for gpu in host.gpus if gpu.vendor == "NVIDIA")
        reports = (prove_backends(nvidia), prove_ort())
        tests = _self_tests(reports) if self_test else {}
    if as_json:
        click.echo(json.dumps(document(host, reports, tests), indent=2, ensure_ascii=False))
        return
    from runtime.cli.devices_view import show

    show(host, reports, tests, hint(host, reports))


def _self_tests(reports: Sequence[BackendReport]) -> dict[str, SelfTest]:
    """One backend after another, since each of them is timed."""
    from runtime.backends.self_test_report import self_test

    return {name: self_test(name) for report in reports for name in sorted(report.working)}


def document(
    host: Host, reports: Sequence[BackendReport], tests: Mapping[str, SelfTest]
) -> dict[str, Any]:
    """The JSON form: sizes in bytes, bandwidth in 10^9 bytes per second, null where unknown.

    A backend that was tested has `self_test`: for each precision the error of a block, measured
    milliseconds of a prompt and a step, or why there are none.
    """
    return {
        "schema": SCHEMA,
        "gpus": [
            dataclasses.asdict(gpu) | {"provenance": _known(_GPU_PROVENANCE, gpu)}
            for gpu in host.gpus
        ],
        "cpu": {"name": "cpu"}
        | dataclasses.asdict(host.cpu)
        | {"provenance": _known(_CPU_PROVENANCE, host.cpu)},
        "engines": [
            {
                "name": report.engine,
                "version": report.version,
                "backends": [
                    {
                        "name": f"{report.engine}:{backend.kind}",
                        "status": backend.status,
                        "reason": backend.reason,
                        "relative_error": backend.relative_error,
                        "provenance": _known({"relative_error": "measured"}, backend),
                        **_tested(tests.get(f"{report.engine}:{backend.kind}")),
                    }
                    for backend in report.backends
                ],
            }
            for report in reports
        ],
        "notes": list(host.notes),
        "hint": hint(host, reports),
    }


def _tested(test: SelfTest | None) -> dict[str, Any]:
    if test is None:
        return {}
    results = {one.precision: dataclasses.asdict(one) for one in test.results}
    return {"self_test": {"results": results, "problem": test.problem, "provenance": "measured"}}


def hint(host: Host, reports: Sequence[BackendReport]) -> str:
    """The one thing to do next, as a full sentence; `reports` begin with MNN's."""
    working = frozenset().union(*(report.working for report in reports))
    if "mnn:cpu" not in working:
        if reports[0].version is None:
            return "Install the engine with `pip install MNN`; planning works without it."
        return "Reinstall the engine with `pip install --force-reinstall MNN`."
    if not host.gpus:
        return "To plan for a GPU that is not here, state its free memory: glm-plan --vram 11"
    if all(gpu.free_bytes is None for gpu in host.gpus):
        return "State the GPU's free memory yourself: glm-plan --vram 11"
    if all(name.endswith(":cpu") for name in working):
        return (
            "What is installed runs on the CPU only; pip install 'glm-plan[gpu]' adds a backend for"
            " GPUs of any vendor, and glm-plan devices --self-test proves it."
        )
    return "Place a model with these numbers: glm-plan plan"


def _known(provenance: dict[str, str], thing: object) -> dict[str, str]:
    return {name: origin for name, origin in provenance.items() if getattr(thing, name) is not None}


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Say on a terminal's stderr that backends are being tested: a GPU driver may take its time."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("Testing which backends work ..."):
        yield
