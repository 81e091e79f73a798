"""Cluster plans as files: JSON in and out, refused in one sentence when it is not a sound plan."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from scheduler.cluster_plan import CLUSTER_PLAN_SCHEMA, ClusterPlan
from scheduler.errors import PlanError, UserInputError
from scheduler.json_file import first_fault, read_document
from scheduler.whole_file import write_whole

_LARGEST_MIB = 16


def cluster_plan_json(plan: ClusterPlan) -> str:
    """Print a plan as indented JSON, ASCII only."""
    return json.dumps(plan.model_dump(mode="json", by_alias=True), indent=2)


def write_cluster_plan(plan: ClusterPlan, path: Path) -> None:
    """Write a plan by `write_whole`; raises UserInputError when the file cannot be written."""
    try:
        write_whole(path, cluster_plan_json(plan) + "\n")
    except OSError as error:
        raise UserInputError(
            f"The plan cannot be written to {path}: {error.strerror or error}; name a file in a"
            " directory that exists and can be written to."
        ) from None


def read_cluster_plan(path: Path) -> ClusterPlan:
    """Read a plan and check that its stages, hosts and hops agree.

    Raises PlanError with one sentence: missing file, no JSON, another schema, a field that is
    wrong, replicas that share a host, stages that overlap or leave a gap.
    """
    again = "make the plan anew with `glm-plan plan --cluster FILE --out FILE`"
    document = read_document(path, CLUSTER_PLAN_SCHEMA, _LARGEST_MIB, PlanError, again)
    try:
        return ClusterPlan.model_validate(document)
    except ValidationError as error:
        raise PlanError(f"{path} is not a sound plan: {first_fault(error)}.") from None
