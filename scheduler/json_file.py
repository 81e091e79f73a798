"""JSON documents as files: written whole or not at all, and read with bounds."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scheduler.errors import GlmPlanError
from scheduler.units import MIB
from scheduler.wording import shorten


def write_whole(path: Path, text: str) -> None:
    """Write ASCII text so that readers see the old file or the whole new one, never a part.

    A path that is no regular file (a pipe, /dev/null) is written to directly. Raises OSError.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="ascii")
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def read_document(
    path: Path, schema: str, largest_mib: int, error: type[GlmPlanError], again: str
) -> dict[str, Any]:
    """Read a JSON object of this schema; `again` ends each sentence with what to do.

    Raises `error` for a file that cannot be read, is too large, is no JSON or has another schema.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(largest_mib * MIB + 1)
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror or fault}.") from None
    if len(content) > largest_mib * MIB:
        raise error(f"{path} is over {largest_mib} MiB; {again}.")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise error(f"{path} is not JSON; {again}.") from None
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found != schema:
        told = f"schema {shorten(str(found))}" if found is not None else "no schema"
        raise error(f"{path} has {told}, expected {schema!r}; {again}.")
    return document


def first_fault(error: ValidationError) -> str:
    """Where a document is wrong and how, from the first fault that pydantic found."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    what = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
