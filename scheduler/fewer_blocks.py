"""A plan after a device failed: one block fewer there, one more on the CPU. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.cost import device_kind
from scheduler.errors import PlanError
from scheduler.memory import ASSUMED_THREADS, gpu_host_bytes, hop_bytes, stage_memory
from scheduler.model import ModelSpec
from scheduler.placement import block_ranges
from scheduler.plan import Plan, Precision, Provenance, Stage


@dataclass(frozen=True)
class _Share:
    """What a device holds, without saying which blocks."""

    device: str
    backend: str
    precision: Precision
    blocks: int
    lm_head_precision: Precision | None
    free_bytes: int | None = None
    free_provenance: Provenance | None = None


def one_block_fewer(
    plan: Plan, spec: ModelSpec, device: str, reason: str, threads: int = ASSUMED_THREADS
) -> Plan:
    """Move a block from `device` to the CPU; its last part to move is lm_head.

    Other devices keep their counts; the order of stages stays. A CPU that held nothing comes last,
    with the device's precision (fp32 for fp16). The plan carries `reason` as a warning, and neither
    speed nor command: both were made for another placement. Raises PlanError where the device is
    the CPU or not in the plan.
    """
    shares = [
        _Share(
            one.device,
            one.backend,
            one.precision,
            len(one.blocks),
            one.lm_head_precision,
            one.free_bytes,
            one.free_provenance,
        )
        for one in plan.stages
    ]
    failed = next((one for one in shares if one.device == device), None)
    if failed is None or device == "cpu":
        raise PlanError(f"{device} has no blocks that could move to the CPU.")
    if all(one.device != "cpu" for one in shares):
        widened: Precision = "fp32" if failed.precision == "fp16" else failed.precision
        engine = failed.backend.partition(":")[0]
        shares.append(_Share("cpu", f"{engine}:cpu", widened, 0, None))
    what = "one block" if failed.blocks else "lm_head"
    shares = [_moved(one, failed) for one in shares]
    shares = [one for one in shares if one.blocks or one.lm_head_precision]
    ranges = block_ranges([one.blocks for one in shares])
    stages = [
        _stage(plan, spec, one, held, threads) for one, held in zip(shares, ranges, strict=True)
    ]
    on_gpus = sum(one.blocks for one in shares if one.device != "cpu")
    return plan.model_copy(
        update={
            "gpu_blocks": on_gpus,
            "cpu_blocks": spec.blocks - on_gpus,
            "stages": stages,
            "ram": plan.ram.model_copy(update=_ram(plan, spec, stages)),
            "warnings": [*plan.warnings, f"{what} of {device} moved to the CPU: {reason}"],
            "command": None,
            "speed": None,
            "verification": None,
        }
    )


def _moved(share: _Share, failed: _Share) -> _Share:
    if share.device == failed.device:
        if failed.blocks:
            return replace(share, blocks=share.blocks - 1)
        return replace(share, lm_head_precision=None)
    if share.device == "cpu":
        if failed.blocks:
            return replace(share, blocks=share.blocks + 1)
        return replace(share, lm_head_precision=share.precision)
    return share


def _stage(
    plan: Plan, spec: ModelSpec, share: _Share, held: tuple[int, int] | None, threads: int
) -> Stage:
    contents = (
        share.blocks,
        share.precision,
        share.lm_head_precision,
        plan.context_tokens,
        plan.slots,
    )
    return Stage(
        device=share.device,
        backend=share.backend,
        precision=share.precision,
        first_block=held[0] if held else None,
        last_block=held[1] if held else None,
        lm_head=share.lm_head_precision is not None,
        lm_head_precision=share.lm_head_precision,
        memory=stage_memory(spec, device_kind(share.device), *contents, threads),
        host_bytes=gpu_host_bytes(spec, *contents) if share.device != "cpu" else 0,
        free_bytes=share.free_bytes,
        free_provenance=share.free_provenance,
    )


def _ram(plan: Plan, spec: ModelSpec, stages: list[Stage]) -> dict[str, int]:
    """The RAM budget moved by what the stages hold there now, more or less than before."""
    hops = hop_bytes(spec, len(stages), plan.context_tokens, plan.slots) - hop_bytes(
        spec, len(plan.stages), plan.context_tokens, plan.slots
    )
    driver_bytes = plan.ram.driver_bytes + hops
    held = _in_ram(stages) - _in_ram(plan.stages)
    return {"needed_bytes": plan.ram.needed_bytes + hops + held, "driver_bytes": driver_bytes}


def _in_ram(stages: list[Stage]) -> int:
    on_cpu = sum(stage.memory.total_bytes for stage in stages if stage.device == "cpu")
    return on_cpu + sum(stage.host_bytes for stage in stages)
