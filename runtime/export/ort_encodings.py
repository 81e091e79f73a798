"""The encodings of ONNX Runtime for the precisions that a bundle shall have."""

from __future__ import annotations

from runtime.export.request import Encoding
from scheduler.errors import UserInputError
from scheduler.model import ModelSpec, block_matrices
from scheduler.plan import Precision

# What `MatMulNBits` takes. A block of ChatGLM-6B on a CPU at int4: 4.4 ms a decode step with 128
# weights to a scale, 5.0 with 64 and 11.1 with 32, for an error of 1.33 %, 1.21 % and 1.08 %
# (random weights, measured with ONNX Runtime 1.32; docs/backends.md).
_BLOCKS = (128, 64, 32, 16)


def ort_encodings(
    spec: ModelSpec, precisions: tuple[Precision, ...], weight_block: int | None
) -> list[Encoding]:
    """One encoding per precision; int8 and int4 have a scale per ``weight_block`` values.

    Without one, the coarsest that divides every width, and 32 where none does: ONNX Runtime pads.
    Raises UserInputError for a size that it has no kernels for.
    """
    if weight_block is not None and weight_block not in _BLOCKS:
        raise UserInputError(
            f"--weight-block {weight_block} is nothing that ONNX Runtime computes with; expected"
            f" one of {', '.join(map(str, _BLOCKS))}, or --backend mnn."
        )
    widths = {matrix.inner for matrix in block_matrices(spec)}
    fitting = (size for size in _BLOCKS if all(width % size == 0 for width in widths))
    block = weight_block or next(fitting, 32)
    return [
        Encoding(precision, block if precision in ("int8", "int4") else None, "ort")
        for precision in dict.fromkeys(precisions)
    ]
