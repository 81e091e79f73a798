"""How a worker's C allocator deals with large blocks: in huge pages, and given back when freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_THRESHOLD_BYTES = 1 << 20
_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


@contextlib.contextmanager
def huge_pages() -> Iterator[None]:
    """Let processes that are started meanwhile ask for huge pages, where glibc 2.35 or later is.

    A token reads all weights once, so every page costs a walk through the page tables: with pages
    of 2 MiB decoding 28 int4 blocks took 5 % less (median of 13 interleaved rounds on 2 virtual
    cores). What the user has put into GLIBC_TUNABLES wins.
    """
    if _TUNABLES in os.environ:
        yield
        return
    os.environ[_TUNABLES] = _HUGE_PAGES
    try:
        yield
    finally:
        os.environ.pop(_TUNABLES, None)


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
