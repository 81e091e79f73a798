"""What one process may map, whatever RAM the machine has: `ulimit -v`."""

from __future__ import annotations


def address_space_left() -> int | None:
    """Bytes that this process may still map (RLIMIT_AS less what it has); None without a limit.

    Processes that it starts get the limit as well, each for itself.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    import psutil

    soft, _hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    return max(0, soft - psutil.Process().memory_info().vms)
