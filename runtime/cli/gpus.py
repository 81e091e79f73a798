"""`glm-plan gpus`: published figures of GPUs that a plan can be made for without having one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from scheduler.device_profiles import GpuProfile
from scheduler.errors import UserInputError
from scheduler.units import GIB
from scheduler.wording import near_matches, shorten

SCHEMA = "glm-plan/gpus/1"


@click.command()
@click.argument("text", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
def command(text: tuple[str, ...], as_json: bool) -> None:
    """List GPU profiles, or those whose name, vendor or generation contains every word of TEXT.

    The figures are published peaks, not measurements; --json names their sources.
    Add GPUs of your own as TOML files in the configuration directory's devices folder.
    """
    from scheduler.profiles import load_gpus

    every = load_gpus()
    words = " ".join(text).casefold()
    chosen = [gpu for gpu in every if _matches(gpu, words)]
    if not chosen:
        near = near_matches(words, [gpu.name for gpu in every], "leave TEXT out to list them all.")
        raise UserInputError(f"No GPU matches {shorten(words)}; {near}")
    if as_json:
        click.echo(json.dumps(document(chosen), indent=2, ensure_ascii=False))
    else:
        _show(chosen)


def document(gpus: list[GpuProfile]) -> dict[str, Any]:
    """The JSON form: memory in bytes, bandwidth in 10^9 bytes per second, null where unknown."""
    return {
        "schema": SCHEMA,
        "gpus": [dataclasses.asdict(gpu) | {"provenance": "given"} for gpu in gpus],
    }


def _matches(gpu: GpuProfile, words: str) -> bool:
    haystack = " ".join((gpu.vendor, gpu.name, gpu.generation, *gpu.aliases)).casefold()
    squeezed = haystack.replace(" ", "")
    return all(word in haystack or word in squeezed for word in words.split())


def _show(gpus: list[GpuProfile]) -> None:
    from runtime.cli.tables import print_table

    print_table(
        ("GPU",),
        ("GiB", "GB/s", "bits", "fp32", "fp16", "PCIe", "year", "launch"),
        (
            (
                gpu.name,
                f"{gpu.memory_bytes / GIB:g}",
                f"{gpu.bandwidth_gbps:.0f}",
                str(gpu.bus_width_bits),
                _figure(gpu.fp32_tflops),
                _figure(gpu.fp16_tflops),
                _link(gpu),
                str(gpu.release_year),
                f"${gpu.release_price_usd:,}" if gpu.release_price_usd else "-",
            )
            for gpu in gpus
        ),
        "Published, not measured: peak bandwidth; dense TFLOPS of fp32, and of fp16 on"
        " tensor or matrix cores where there are any. Shared: one memory for GPU and CPU.",
    )


def _link(gpu: GpuProfile) -> str:
    if gpu.unified_memory:
        return "shared"
    return f"{gpu.pcie_generation}.0 x{gpu.pcie_lanes}" if gpu.pcie_generation else "-"


def _figure(tflops: float | None) -> str:
    return "-" if tflops is None else f"{tflops:.3g}" if tflops < 100 else f"{tflops:.0f}"
