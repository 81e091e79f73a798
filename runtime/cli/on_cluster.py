"""--cluster and --wire of commands that run a model, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.cluster.frames import WireDtype
    from runtime.cluster.start import ClusterStart
    from scheduler.plan import Plan
    from scheduler.planning import Planning

_Function = TypeVar("_Function", bound=Callable[..., Any])


def cluster_options(function: _Function) -> _Function:
    """Add --cluster and --wire to a click command, as `cluster` and `wire`."""
    cluster = click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Run the model on the hosts of the Ray cluster at HOST:PORT; auto is the one that this"
        " machine belongs to. --plan is then a plan of `glm-plan plan --cluster`.",
    )
    wire = click.option(
        "--wire",
        type=click.Choice(["fp32", "fp16"]),
        default="fp32",
        show_default=True,
        help="What hidden states are between hosts of a --cluster; fp16 halves their bytes.",
    )
    return cluster(wire(function))


def target_on_cluster(
    address: str,
    wire: WireDtype,
    planning: Planning,
    bundle_dir: Path | None,
    plan_file: Path | None,
) -> tuple[Plan, Bundle, ClusterStart]:
    """The bundle that the options name, its plan for the cluster's hosts, and what starts it.

    What is found on the hosts goes to stderr. Raises as `target_of` and `cluster_target`.
    """
    from runtime.article.folder import open_model
    from runtime.bundle_spec import spec_of_bundle
    from runtime.cli.cluster_plan import cluster_planning
    from runtime.cli.given import given_options
    from runtime.cli.stored import bundle_of_model
    from runtime.cli.target import as_stored, refuse_model_beside_bundle, stored_precisions
    from runtime.cluster.ray_door import load_ray
    from runtime.cluster.target import cluster_target
    from scheduler.cluster_as_plan import as_plan

    load_ray()  # before a model is exported for a cluster that cannot be joined
    given = given_options() - {"host"}  # of `serve`: where to listen
    refuse_model_beside_bundle(bundle_dir)
    planning = cluster_planning(planning, given)
    if bundle_dir is not None:
        bundle = open_model(bundle_dir)
    else:
        asked = [one for one in (planning.gpu_precision, planning.cpu_precision) if one]
        bundle = bundle_of_model(planning.model, asked, planning.engines, planning)
    planning = as_stored(planning, bundle)
    stored = stored_precisions(bundle, planning.engines)
    directory = str(bundle_dir) if bundle_dir else None
    request = planning.request(spec_of_bundle(bundle), directory, stored)

    def tell(sentence: str) -> None:
        click.echo(sentence, err=True)

    target = cluster_target(address, bundle, request, plan_file, wire, tell)
    return as_plan(target.plan), bundle, target.start
