"""The `reserve` policy: the article's formula, with its constants, its numbers and its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scheduler.free_memory import free_of_gpus
from scheduler.hardware import Host
from scheduler.memory import held_block_bytes
from scheduler.placement import place_by_hand, place_by_reserve
from scheduler.plan import Provenance
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB, format_size

DEFAULT_RESERVE_BYTES = 2 * GIB  # the article's, for models without published constants


@dataclass(frozen=True)
class GpuShare:
    """One GPU's part in the decision; bytes, None where free memory could not be found out."""

    device: str
    free_bytes: int | None
    free_provenance: Provenance | None
    by_rule: int
    blocks: int


@dataclass(frozen=True)
class Decision:
    """The constants in force, where they come from, and how many blocks each GPU gets."""

    reserve_bytes: int
    reserve_source: str
    block_bytes: int
    block_source: str
    published: bool  # both constants are the model's own
    shares: tuple[GpuShare, ...]

    @property
    def gpu_blocks(self) -> int:
        """Blocks on all GPUs together."""
        return sum(share.blocks for share in self.shares)


def decide(request: PlanRequest, host: Host | None) -> Decision:
    """Apply the rule to the free memory given or measured; a count set by hand wins over it.

    Constants come from the request, then from the model's profile, then from its geometry.
    """
    rule = request.model.reserve_rule
    if request.reserve_bytes is not None:
        reserve_bytes, reserve_source = request.reserve_bytes, "given"
    elif rule is not None:
        reserve_bytes, reserve_source = rule.reserve_bytes, rule.source
    else:
        reserve_bytes, reserve_source = DEFAULT_RESERVE_BYTES, "default"
    if rule is not None and request.gpu_precision in rule.block_bytes:
        block_bytes, block_source = rule.block_bytes[request.gpu_precision], rule.source
    else:
        block_bytes = held_block_bytes(request.model, request.gpu_precision, "cuda")
        block_source = "estimated from the model's geometry"
    return Decision(
        reserve_bytes,
        reserve_source,
        block_bytes,
        block_source,
        rule is not None and rule.source == reserve_source == block_source,
        _shares(request, host, reserve_bytes, block_bytes),
    )


def _shares(
    request: PlanRequest, host: Host | None, reserve_bytes: int, block_bytes: int
) -> tuple[GpuShare, ...]:
    gpus = free_of_gpus(request, host)
    free_bytes = [gpu.free_bytes for gpu in gpus]
    by_rule = place_by_reserve(free_bytes, reserve_bytes, block_bytes, request.model.blocks)
    counts = by_rule
    if request.gpu_blocks is not None and gpus:
        counts = place_by_hand(by_rule, min(request.gpu_blocks, request.model.blocks))
    return tuple(
        GpuShare(gpu.device, gpu.free_bytes, gpu.provenance, fits, count)
        for gpu, fits, count in zip(gpus, by_rule, counts, strict=True)
    )


def formula_text(free_bytes: int, decision: Decision, blocks: int) -> str:
    """Write the rule with its numbers: ``floor((11.00 GiB - 2.00 GiB) / 385 MiB) = 23, of 28``."""
    raw = (free_bytes - decision.reserve_bytes) // decision.block_bytes
    bound = f"of {blocks}" if raw <= blocks else f"more than the {blocks} there are"
    return (
        f"floor(({format_size(free_bytes)} - {format_size(decision.reserve_bytes)})"
        f" / {block_size_text(decision.block_bytes)}) = {raw}, {'so none' if raw < 0 else bound}"
    )


def block_size_text(size_bytes: int) -> str:
    """Print a size without decimals where it is whole mebibytes: ``385 MiB``."""
    mib, rest = divmod(size_bytes, MIB)
    return f"{mib} MiB" if rest == 0 and mib < 1024 else format_size(size_bytes)


def decision_document(request: PlanRequest, decision: Decision) -> dict[str, Any]:
    """The `decision` of a plan: the formula as text, every number in it, and who set the count."""
    remaining = request.model.blocks
    texts = [] if decision.shares else ["no GPU, so every block is on the CPU"]
    for share in decision.shares:
        text = "free memory unknown, so none"
        if share.free_bytes is not None:
            text = formula_text(share.free_bytes, decision, remaining)
        texts.append(text if len(decision.shares) == 1 else f"{share.device}: {text}")
        remaining -= share.by_rule
    return {
        "formula": "floor((free - reserve) / block), at least 0 and at most the model's blocks",
        "text": "; ".join(texts),
        "set_by": "rule" if request.gpu_blocks is None else "hand",
        "blocks": request.model.blocks,
        "block_bytes": decision.block_bytes,
        "block_source": decision.block_source,
        "reserve_bytes": decision.reserve_bytes,
        "reserve_source": decision.reserve_source,
        "gpu_precision": request.gpu_precision,
        "cpu_precision": request.cpu_precision,
        "lm_head_precision": request.cpu_precision,
        "gpus": [
            {
                "device": share.device,
                "free_bytes": share.free_bytes,
                "free_provenance": share.free_provenance,
                "blocks_by_rule": share.by_rule,
                "blocks": share.blocks,
            }
            for share in decision.shares
        ],
    }
