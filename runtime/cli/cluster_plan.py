"""`glm-plan plan --cluster`: the plan for several machines, on screen or as JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.errors import UserInputError

if TYPE_CHECKING:
    from scheduler.cluster_plan import WireDtype
    from scheduler.planning import Planning
    from scheduler.request import PlanRequest

_OF_ONE_MACHINE = {
    "vram": "--vram",
    "gpus": "--gpu",
    "cpu": "--cpu",
    "rams": "--ram",
    "host_name": "--host",
    "gpu_blocks": "--gpu-blocks",
    "as_table": "--table",
}


def cluster_planning(planning: Planning, given: set[str]) -> Planning:
    """The planning with the policy of clusters, which is `fit`.

    `given` are the parameters on the command line. Raises UserInputError for one that describes a
    single machine, and for the policy `reserve`.
    """
    for name in sorted(given & set(_OF_ONE_MACHINE)):
        raise UserInputError(
            f"--cluster describes every host, and {_OF_ONE_MACHINE[name]} is about one machine;"
            " leave one of them out."
        )
    if "policy" in given and planning.policy != "fit":
        raise UserInputError(
            "--policy reserve is a rule for one machine; hosts of a --cluster are filled by fit."
        )
    return replace(planning, policy="fit")


def refuse_without_cluster(given: set[str]) -> None:
    """Raise UserInputError for an option that only means something with --cluster."""
    if "wire" in given:
        raise UserInputError("--wire is about the network between hosts; give --cluster FILE too.")


def show_cluster_plan(
    request: PlanRequest,
    file: Path,
    wire: WireDtype,
    *,
    explain: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Plan, write the JSON where that was asked for, and print."""
    from scheduler.cluster_file import read_cluster
    from scheduler.cluster_planner import make_cluster_plan
    from scheduler.plan_file import plan_json, write_plan

    cluster = read_cluster(file)
    plan = make_cluster_plan(request, cluster, wire, str(file))
    if explain:
        from scheduler.cluster_explain import explain_cluster

        told = explain_cluster(plan, request, cluster)
        plan = plan.model_copy(update={"explanation": told})
    if out is not None:
        write_plan(plan, out)
    if as_json:
        click.echo(plan_json(plan))
        return
    from runtime.cli.cluster_view import show

    show(plan)
    if out is not None:
        click.echo(f"Plan written to {out}.")
