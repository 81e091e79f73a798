"""The process that renders chat templates: its limits, and an answer to every request."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

from runtime.confine import confine

MAX_SECONDS = 5.0  # of one rendering; published templates take a few milliseconds
MAX_ADDED_BYTES = 512 << 20  # address space beyond that of the idle process
_SHOWN_CHARACTERS = 300


def serve(pipe: Connection) -> None:
    """Answer requests until the other end is closed.

    A request is JSON: the template, and the variables to render it with; without variables it is
    only parsed. An answer names its kind: text, refused, limit or wrong.
    """
    from runtime import template_renderer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops an answer, not this process
    confine()
    _limit_memory()
    pipe.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = json.loads(pipe.recv_bytes())
            _limit_seconds()
            kind, text = _answer(template_renderer, request)
            pipe.send_bytes(json.dumps({"kind": kind, "text": text}).encode())


def _answer(renderer: Any, request: dict[str, Any]) -> tuple[str, str]:
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    try:
        if "variables" in request:
            return "text", renderer.render(request["template"], request["variables"])
        renderer.compile_template(request["template"])
    except (MemoryError, OverflowError, renderer.TooLongError):
        return "limit", "asked for more than any prompt needs"
    except RecursionError:
        return "limit", "is nested too deep"
    except TemplateSyntaxError as error:
        return "wrong", f"line {error.lineno}: {_shown(error.message)}"
    except Exception as error:  # whatever a template's expression may raise
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        return "wrong" if isinstance(error, SecurityError) else "refused", kind + _shown(error)
    return "text", ""


def _shown(message: Any) -> str:
    return str(message)[:_SHOWN_CHARACTERS].rstrip(".")


def _limit_memory() -> None:
    """Bound the address space, where the system can (not on Windows)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + MAX_ADDED_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_seconds() -> None:
    """End this process by itself, should its parent be gone while a template runs."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        seconds = int(time.process_time() + 2 * MAX_SECONDS) + 1
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
