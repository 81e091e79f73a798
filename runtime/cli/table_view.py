"""The terminal view of `--table`: a row for every number of GPU blocks."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.cli.tables import print_table
from scheduler.block_table import SplitRow
from scheduler.plan import Plan
from scheduler.units import GIB, format_size


def show_table(plan: Plan, rows: Sequence[SplitRow]) -> None:
    """Print all splits; an arrow marks the one that the plan chose."""
    gpus = [gpu["device"] for gpu in plan.decision["gpus"]]
    texts = ("", "GPU/CPU blocks", "lm_head")
    numbers = (*(f"{name} GiB" for name in gpus), "RAM GiB", "tok/s")
    print_table(
        texts,
        numbers,
        [
            (
                "->" if row.gpu_blocks == plan.gpu_blocks else "",
                f"{row.gpu_blocks:>3} / {row.cpu_blocks}",
                row.lm_head_device,
                *(f"{size / GIB:.2f}" for size in row.vram_bytes),
                f"{row.ram_bytes / GIB:.2f}",
                f"{row.tokens_per_second:.3g}",
                _binding(row),
            )
            for row in rows
        ],
        note=_note(plan),
        last=("what binds",),
    )


def _binding(row: SplitRow) -> str:
    if row.fits:
        return "fits"
    return ", ".join(
        f"{'RAM' if short.device == 'ram' else short.device} short by"
        f" {format_size(short.needed_bytes - short.available_bytes)}"
        for short in row.shortfalls
    )


def _note(plan: Plan) -> str:
    decision = plan.decision
    provenance = plan.speed.provenance if plan.speed else "estimated"
    return (
        f"{plan.model}, GPU {decision['gpu_precision']}, CPU {decision['cpu_precision']},"
        f" {plan.context_tokens} tokens, slots: {plan.slots}. Memory needed (estimated) at full"
        f" context; speed {provenance}. -> is what {plan.policy} chooses."
    )
