"""What a report assumes and where its numbers come from, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.hardware import Gpu
from scheduler.machine import Machine
from scheduler.model import ModelSpec
from scheduler.plan import Provenance
from scheduler.report.document import Source
from scheduler.slots import KV_FIRST_STEP, KV_LAST_STEP
from scheduler.speed import DEFAULT_PROMPT
from scheduler.units import format_size

ASSUMPTIONS = (
    "Memory is counted as the devices hold it, not as files are: on x86 MNN expands fp16 weights to"
    " fp32 in RAM, and an int8 or int4 block on CUDA carries an fp16 copy of its largest matrix.",
    f"The KV cache counts at its capacity for every slot: {KV_FIRST_STEP} tokens, doubled up to"
    f" {KV_LAST_STEP}, then the next multiple of {KV_LAST_STEP}.",
    "tok/s is decode at a full context: every slot has as many tokens behind it as the context"
    " holds. A shorter conversation is faster.",
    f"Time to first token is for a prompt of {DEFAULT_PROMPT} tokens, or of the context where that"
    " is less.",
    "Stages take turns: one forward passes through all devices before the next begins, with all"
    " slots in one batch.",
    "The embedding is read from disk by a memory map and is not counted as RAM.",
    "Prices are those at launch in the USA, not today's.",
)
"""True of every report; docs/numbers.md says how the numbers are made."""


def machine_notes(machines: Sequence[Machine]) -> list[str]:
    """Each machine's own assumptions, once."""
    return list(dict.fromkeys(note for machine in machines for note in machine.host.notes))


def sources_of(models: Sequence[ModelSpec], machines: Sequence[Machine]) -> list[Source]:
    """Where geometry, memory and speed constants come from, each once."""
    found: list[tuple[str, Provenance, str]] = [
        (f"Geometry of {model.name}", "given", f"model profile {model.name}") for model in models
    ]
    found += [
        (f"Reserve rule of {model.name}", "given", model.reserve_rule.source)
        for model in models
        if model.reserve_rule is not None
    ]
    for machine in machines:
        for gpu in machine.host.gpus:
            speed = machine.speeds.devices[gpu.name]
            memory = memory_provenance(machine, gpu.name)
            found += [
                (f"Free memory of {gpu.model_name}", memory, _memory_source(memory, gpu)),
                (f"Speed of {gpu.model_name}", speed.provenance, speed.source),
            ]
        cpu, ram = machine.speeds.devices["cpu"], memory_provenance(machine, "cpu")
        found += [
            ("Available RAM", ram, _RAM_SOURCES[ram]),
            (f"Speed of {machine.host.cpu.model_name}", cpu.provenance, cpu.source),
        ]
    hop = machines[0].speeds.hop
    told = f"{hop.latency_seconds * 1e3:.3g} ms and {hop.bytes_per_second / 1e9:.3g} GB/s"
    found.append(("Hops between stages", "estimated", f"{told} through shared memory"))
    return [
        Source(what=what, provenance=provenance, source=source)
        for what, provenance, source in dict.fromkeys(found)
    ]


def memory_provenance(machine: Machine, device: str) -> Provenance:
    """How sure a device's free memory is."""
    planned = machine.host.planned.get(device)
    return planned.memory_provenance if planned else "measured"


_RAM_SOURCES: dict[Provenance, str] = {
    "measured": "this machine, less what other programs use and what its control group withholds",
    "estimated": "installed RAM, less the system's share",
    "given": "the command line",
}


def _memory_source(provenance: Provenance, gpu: Gpu) -> str:
    if provenance == "measured":
        source = gpu.memory_source or "NVML"
        return (
            "NVML, the driver's own count" if source == "NVML" else f"{source}, the system's count"
        )
    if provenance == "given":
        return "the command line"
    total = "unknown" if gpu.total_bytes is None else format_size(gpu.total_bytes)
    return f"published memory of {total}, less the share of driver and desktop"
