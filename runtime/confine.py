"""What a child process that handles foreign data gives up for good, as far as the system can."""

from __future__ import annotations

import contextlib
import sys

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def confine() -> None:
    """Leave no network, no way to more rights and no core dump to this process.

    For a child of one thread, before it reads anything. On Linux it moves to a network of its own,
    in which nothing is up; where the system forbids that (in containers, often), it goes on
    without. Elsewhere only core dumps are turned off.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Root may do the first; others need a user namespace around it.
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
