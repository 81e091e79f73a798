"""What an export is asked to do, and what it says while doing it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scheduler.backend_names import Engine
from scheduler.errors import UserInputError
from scheduler.model import ModelSpec, block_matrices, default_weight_block
from scheduler.plan import Precision

DEFAULT_PRECISIONS: tuple[Precision, ...] = ("fp16",)


@dataclass(frozen=True)
class Encoding:
    """How a part's weights are stored: precision, how many integers share a scale, for whom."""

    precision: Precision
    weight_block: int | None = None
    engine: Engine = "mnn"

    @property
    def directory(self) -> str:
        """The folder of a bundle that holds parts of this encoding."""
        block = f"-block{self.weight_block}" if self.weight_block else ""
        return f"{self.engine}-{self.precision}{block}"


@dataclass(frozen=True)
class ExportRequest:
    """What to export, where to, and how weights are stored.

    No ``precisions`` stores a GGUF file as it is quantised, lm_head by itself, and any other
    checkpoint at `DEFAULT_PRECISIONS`. ``head_precisions`` None stores lm_head as the blocks;
    ``weight_block`` None chooses one; ``jobs`` None means as many conversions at once as memory and
    cores allow.
    """

    checkpoint: Path
    out: Path
    precisions: tuple[Precision, ...] = ()
    head_precisions: tuple[Precision, ...] | None = None
    weight_block: int | None = None
    name: str | None = None
    jobs: int | None = None
    force: bool = False
    resume: bool = False
    engines: tuple[Engine, ...] = ("mnn",)


@dataclass(frozen=True)
class Progress:
    """Where an export is: what is in work, how much of all work is done, and bytes written.

    Work is counted in bytes: those read for checksums, and fp32 weights once per conversion.
    """

    doing: str
    done_bytes: int
    total_bytes: int
    written_bytes: int


OnProgress = Callable[[Progress], None]


_MNN_BLOCK = 16  # what the converter's --weightQuantBlock must be a multiple of (measured)


def choose_encodings(
    spec: ModelSpec, precisions: tuple[Precision, ...], weight_block: int | None
) -> list[Encoding]:
    """One encoding per precision; without ``weight_block`` the coarsest that fits every width.

    Where none of the usual ones fits, int4 has one scale per row. Raises UserInputError for a
    weight block that is no multiple of 16, as MNN wants it, or does not divide a matrix's width.
    """
    if weight_block is not None and weight_block % _MNN_BLOCK:
        raise UserInputError(
            f"--weight-block is {weight_block}; expected a multiple of {_MNN_BLOCK}."
        )
    widths = sorted({matrix.inner for matrix in block_matrices(spec)})
    if weight_block is not None and "int4" in precisions:
        for width in widths:
            if width % weight_block:
                raise UserInputError(
                    f"--weight-block {weight_block} does not divide the width {width} of"
                    f" {spec.name}; usable: {_usable(widths) or 'none, leave it out'}."
                )
    block = weight_block or default_weight_block(spec)
    return [
        Encoding(precision, block if precision == "int4" else None)
        for precision in dict.fromkeys(precisions)
    ]


def _usable(widths: list[int]) -> str:
    common = math.gcd(*widths)
    blocks = [size for size in range(_MNN_BLOCK, common + 1, _MNN_BLOCK) if common % size == 0]
    return ", ".join(map(str, blocks[:12]))
