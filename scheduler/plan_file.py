"""Plans as files: JSON in and out, refused in one sentence when it is not a sound plan."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from pydantic import ValidationError

from scheduler.errors import PlanError, UserInputError
from scheduler.plan import PLAN_SCHEMA, Plan

_LARGEST_FILE_BYTES = 16 << 20


def plan_json(plan: Plan) -> str:
    """Print a plan as indented JSON, ASCII only, so that any terminal and pipe takes it."""
    return json.dumps(plan.model_dump(mode="json", by_alias=True), indent=2)


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan so that readers see the old file or the whole new one, never a part.

    A path that is no regular file (a pipe, /dev/null) is written to directly. Raises UserInputError
    when the file cannot be written.
    """
    text = plan_json(plan) + "\n"
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="ascii")
            return
        try:
            part.write_text(text, encoding="ascii")
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise UserInputError(
            f"The plan cannot be written to {path}: {error.strerror or error}; name a file in a"
            " directory that exists and can be written to."
        ) from None


def read_plan(path: Path) -> Plan:
    """Read a plan and check that its stages, counts and totals agree.

    Raises PlanError with one sentence: missing file, no JSON, another schema, a field that is
    wrong, stages that overlap or leave a gap.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise PlanError(f"The plan {path} cannot be read: {error.strerror or error}.") from None
    if len(content) > _LARGEST_FILE_BYTES:
        raise PlanError(f"{path} is over 16 MiB; a plan is a few KiB of JSON.")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise PlanError(
            f"{path} is not JSON; make a plan with `glm-plan plan --out {path}`."
        ) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != PLAN_SCHEMA:
        found = f"schema {str(schema)[:60]!r}" if schema is not None else "no schema"
        raise PlanError(
            f"{path} has {found}, expected {PLAN_SCHEMA!r}; make the plan anew with"
            " `glm-plan plan --out FILE`."
        )
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise PlanError(f"{path} is not a sound plan: {_first_fault(error)}.") from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    what = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
