"""Plans as files: JSON in and out, refused in one sentence when it is not a sound plan."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ValidationError

from scheduler.errors import PlanError, UserInputError
from scheduler.json_file import first_fault, read_document
from scheduler.plan import PLAN_SCHEMA, Plan
from scheduler.whole_file import write_whole

LARGEST_MIB = 16


def plan_json(plan: BaseModel) -> str:
    """Print a plan, of a machine or of a cluster, as indented JSON.

    ASCII only, so that any terminal and pipe takes it.
    """
    return json.dumps(plan.model_dump(mode="json", by_alias=True), indent=2)


def write_plan(plan: BaseModel, path: Path) -> None:
    """Write a plan by `write_whole`; raises UserInputError when the file cannot be written."""
    try:
        write_whole(path, plan_json(plan) + "\n")
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
    again = "make the plan anew with `glm-plan plan --out FILE`"
    document = read_document(path, PLAN_SCHEMA, LARGEST_MIB, PlanError, again)
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise PlanError(f"{path} is not a sound plan: {first_fault(error)}.") from None
