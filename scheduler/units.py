"""Parse and print amounts: bytes inside the program, GiB and MiB at its edges."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from scheduler.errors import UserInputError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_UNIT_BYTES = {
    "": GIB,
    "b": 1,
    "k": KIB,
    "kib": KIB,
    "kb": 1000,
    "m": MIB,
    "mib": MIB,
    "mb": 1000**2,
    "g": GIB,
    "gib": GIB,
    "gb": 1000**3,
    "t": 1024 * GIB,
    "tib": 1024 * GIB,
    "tb": 1000**4,
}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})\s*([A-Za-z]*)")
_LARGEST_BYTES = 1 << 60
_LONGEST_SHOWN = 40


def parse_size(text: str, what: str = "size") -> int:
    """Read an amount of memory: ``11``, ``11GiB``, ``11000MiB`` or ``11.5`` (GiB without a unit).

    Returns whole bytes, rounded down, exactly (no binary floating point in between). Raises
    UserInputError, naming ``what``, for anything else: negative, NaN, infinite, unknown unit, over
    1 EiB.
    """
    shown = repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")
    match = _SIZE.fullmatch(text.strip())
    unit = match.group(2).lower() if match else None
    if match is None or unit not in _UNIT_BYTES:
        raise UserInputError(
            f"{what} is {shown}; expected a non-negative amount such as 11, 11GiB, 11000MiB"
            " or 11.5 (GiB when no unit is given)."
        )
    size_bytes = math.floor(Fraction(match.group(1)) * _UNIT_BYTES[unit])
    if size_bytes > _LARGEST_BYTES:
        raise UserInputError(f"{what} is {shown}; that is more than 1 EiB, check the unit.")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Print bytes as people compare them: ``11.00 GiB``, ``385.0 MiB``, ``16.0 KiB``, ``12 B``."""
    magnitude = abs(size_bytes)
    if magnitude >= GIB:
        return f"{size_bytes / GIB:.2f} GiB"
    if magnitude >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    if magnitude >= KIB:
        return f"{size_bytes / KIB:.1f} KiB"
    return f"{size_bytes} B"
