"""Facts: models, machines and settings as the report's document states them."""

from __future__ import annotations

from scheduler.machine import Machine
from scheduler.model import ModelSpec, embedding_bytes, kv_bytes_per_token, total_parameters
from scheduler.report.document import GpuFacts, MachineFacts, ModelFacts, Setting
from scheduler.report.sources import memory_provenance
from scheduler.request import PlanRequest


def setting_of(request: PlanRequest, machine: Machine) -> Setting:
    return Setting(
        model=request.model.name,
        machine=machine.name,
        gpu_precision=request.gpu_precision,
        cpu_precision=request.cpu_precision,
        context_tokens=request.context_tokens,
        slots=request.slots,
    )


def model_facts(model: ModelSpec) -> ModelFacts:
    return ModelFacts(
        name=model.name,
        parameters=total_parameters(model),
        blocks=model.blocks,
        max_context=model.max_context,
        kv_bytes_per_token=kv_bytes_per_token(model),
        embedding_bytes=embedding_bytes(model),
    )


def machine_facts(machine: Machine) -> MachineFacts:
    cpu = machine.speeds.devices["cpu"]
    return MachineFacts(
        name=machine.name,
        gpus=[
            GpuFacts(
                name=gpu.model_name,
                free_bytes=gpu.free_bytes,
                free_provenance=memory_provenance(machine, gpu.name),
                bandwidth_bytes_per_second=speed.bandwidth_bytes_per_second,
                speed_provenance=speed.provenance,
                speed_source=speed.source,
            )
            for gpu in machine.host.gpus
            for speed in (machine.speeds.devices[gpu.name],)
        ],
        cpu=machine.host.cpu.model_name,
        cpu_bandwidth_bytes_per_second=cpu.bandwidth_bytes_per_second,
        cpu_speed_provenance=cpu.provenance,
        cpu_speed_source=cpu.source,
        ram_available_bytes=machine.ram_bytes,
        ram_total_bytes=machine.ram_total_bytes,
        ram_provenance=memory_provenance(machine, "cpu"),
    )
