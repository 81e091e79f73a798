"""JSON documents of ours, read back with bounds: their size, their schema, one sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scheduler.errors import GlmPlanError
from scheduler.strict_json import parse_strict_json
from scheduler.units import MIB
from scheduler.wording import shorten

_LONGEST_PLACE = 100


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
        document = parse_strict_json(content)
    except ValueError as fault:
        raise error(f"{path} {fault}; {again}.") from None
    found = document.get("schema")
    if found != schema:
        told = f"schema {shorten(str(found))}" if found is not None else "no schema"
        raise error(f"{path} has {told}, expected {schema!r}; {again}.")
    return document


def first_fault(error: ValidationError) -> str:
    """Where a document is wrong and how, from the first fault that pydantic found."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"])[:_LONGEST_PLACE]
    what = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
