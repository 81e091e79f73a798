"""Cluster plans as files: JSON in and out, refused in one sentence when it is not a sound plan."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from scheduler.cluster_plan import CLUSTER_PLAN_SCHEMA, ClusterPlan
from scheduler.errors import PlanError
from scheduler.json_file import first_fault, read_document
from scheduler.plan_file import LARGEST_MIB


def read_cluster_plan(path: Path) -> ClusterPlan:
    """Read a plan and check that its stages, hosts and hops agree.

    Raises PlanError with one sentence: missing file, no JSON, another schema, a field that is
    wrong, replicas that share a host, stages that overlap or leave a gap.
    """
    again = "make the plan anew with `glm-plan plan --cluster FILE --out FILE`"
    document = read_document(path, CLUSTER_PLAN_SCHEMA, LARGEST_MIB, PlanError, again)
    try:
        return ClusterPlan.model_validate(document)
    except ValidationError as error:
        raise PlanError(f"{path} is not a sound plan: {first_fault(error)}.") from None
