"""Which errors of a check are too large to be rounding: the file then holds other weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtime.export.check import CheckReport, PartCheck
from scheduler.errors import BundleError

LARGEST_ERROR: Mapping[str, float] = {"fp32": 1e-4, "fp16": 2e-3, "int8": 0.04, "int4": 0.2}
"""Relative error that no linear layer, keys, values, output or logits may exceed, by precision.

MNN 3.6.1 gave at most 1.7 % at int8 and 12 % at int4, 128 weights per scale, for full-width blocks
of normally distributed weights, and 1.3 % and 14 % for the trained tiny model (measured); fp16
rounds bf16 and fp32 checkpoints by up to 5e-4. Other weights are off by 100 % and more. Each layer
is held to it: the block's output alone hides errors behind the residual.
"""

OUTPUT_FACTOR = 3.0
"""How many times that the output of a block with a plain residual may be off.

Each of its matrices works on what the one before got wrong: 2.9 % at int8 and 30 % at int4 for
small blocks of normally distributed weights whose residual is no larger than what is added to it
(measured). ChatGLM-6B's scaled residual leaves no room for that.
"""


def require_close(report: CheckReport, bundle: Path) -> None:
    """Refuse a report with an error beyond `LARGEST_ERROR`.

    Raises BundleError that names the worst one.
    """
    beyond = [
        (error / _limit(part, name), part, name, error)
        for part in report.parts
        for name, error in part.errors.items()
        if not error <= _limit(part, name)  # NaN is too large as well
    ]
    if not beyond:
        return
    _, part, name, error = max(beyond, key=lambda one: one[0])
    others = f"; {len(beyond) - 1} more are too far off" if len(beyond) > 1 else ""
    raise BundleError(
        f"{bundle}: {name} of {part.part} ({part.encoding}) is off by {error:.2%}, over the"
        f" {_limit(part, name):.2%} that rounding explains{others}; export it anew."
    )


def _limit(part: PartCheck, name: str) -> float:
    limit = LARGEST_ERROR[_precision(part)]
    plain_residual = "gate_up" in part.errors
    return OUTPUT_FACTOR * limit if name == "y" and plain_residual else limit


def _precision(part: PartCheck) -> str:
    """Of ``mnn int4 block 128, lm_head mnn fp16``: lm_head's for lm_head, else the first."""
    blocks, _, head = part.encoding.partition(", lm_head ")
    return (head if part.part == "lm_head" and head else blocks).split()[1]
