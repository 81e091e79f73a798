"""Large blocks go back to the system when they are freed, instead of staying with the process."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_THRESHOLD_BYTES = 1 << 20


def return_freed_memory() -> None:
    """Let glibc map every block of 1 MiB and more on its own.

    By default it raises that limit to 32 MiB as blocks are freed, and then keeps what lies between:
    after a prompt of 1,016 tokens a stage of four blocks held 260 MiB that nothing used, and its
    peak was 6 % higher (measured with MNN 3.6.1). Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError):  # musl has no mallopt
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
