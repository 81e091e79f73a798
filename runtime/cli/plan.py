"""`glm-plan plan`: decide, explain, and save or print the decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from runtime.cli.cluster_plan import cluster_planning, refuse_without_cluster, show_cluster_plan
from runtime.cli.given import given_options
from runtime.cli.planning import planning_options
from scheduler.planning import Planning

if TYPE_CHECKING:
    from runtime.model_store import StoredModel
    from scheduler.choose import Devices
    from scheduler.cluster_plan import WireDtype
    from scheduler.plan import Plan
    from scheduler.request import PlanRequest


@click.command()
@planning_options(default_model="chatglm-6b")
@click.option(
    "--bundle",
    "bundle_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Plan for this exported model, with its own geometry and precisions.",
)
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Plan for the hosts of a TOML file instead of one machine, by fit; docs/cluster.md has its"
    " keys.",
)
@click.option(
    "--wire",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="What hidden states are between hosts of a --cluster; fp16 halves their bytes.",
)
@click.option(
    "--explain", is_flag=True, help="Say why each device holds what it holds, and what more costs."
)
@click.option(
    "--table", "as_table", is_flag=True, help="Show every number of GPU blocks: memory and speed."
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or the table, as JSON only.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the plan's JSON to FILE.",
)
def command(
    planning: Planning,
    bundle_dir: Path | None,
    cluster_file: Path | None,
    wire: str,
    explain: bool,
    as_table: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Decide which blocks live on the GPU and which on the CPU.

    Free memory is measured, or stated with --vram to plan for a machine that is not here. Nothing
    is loaded.

    \b
    glm-plan --vram 11                      a GPU with 11 GiB free
    glm-plan --vram 11 --vram 8             two GPUs, filled in this order
    glm-plan --vram 11 --precision int4     smaller weights on both sides
    glm-plan --gpu-blocks 20                your own count
    glm-plan --gpu "rtx 2080 ti" --ram 32   a card that you do not own
    glm-plan --vram 11 --policy fit         the fastest that fits, precision chosen
    glm-plan --vram 11 --table              every split with memory and speed
    glm-plan --cluster lab.toml             several machines and their network
    """
    if cluster_file is not None:
        _plan_cluster(planning, bundle_dir, cluster_file, wire, explain, as_json, out)
        return
    refuse_without_cluster(given_options())
    from scheduler.plan_file import plan_json, write_plan
    from scheduler.planner import make_plan, planning_devices

    request, before = _question(planning, bundle_dir)
    spec = request.model
    host, speeds = planning.machine()
    plan = make_plan(request, host, speeds)
    if explain:
        from scheduler.explain import explain as explanation_of

        devices = planning_devices(request, host, speeds)
        told = explanation_of(plan, spec, devices.speeds)
        plan = plan.model_copy(update={"explanation": told})
    if out is not None:
        write_plan(plan, out)
    if as_table:
        _show_table(request, plan, planning_devices(request, host, speeds), as_json)
    elif as_json:
        click.echo(plan_json(plan))
    else:
        from runtime.cli.plan_view import show

        show(plan, before)
    if out is not None and not as_json:
        click.echo(f"Plan written to {out}.")


def _plan_cluster(
    planning: Planning,
    bundle_dir: Path | None,
    file: Path,
    wire: str,
    explain: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    planning = cluster_planning(planning, given_options())
    request, _ = _question(planning, bundle_dir)
    dtype = cast("WireDtype", wire)
    show_cluster_plan(request, file, dtype, explain=explain, as_json=as_json, out=out)


def _question(planning: Planning, bundle_dir: Path | None) -> tuple[PlanRequest, str | None]:
    """What to ask the planner, and the command that gets the model where it is not here yet."""
    from runtime.cli.target import (
        as_stored,
        ort_choices,
        refuse_model_beside_bundle,
        stored_precisions,
    )

    if bundle_dir is None:
        from runtime.model_store import find_model

        model = find_model(planning.model)
        if model.bundle != model.bundle_home:
            return _question_of_profile(planning, model)
        bundle_dir, named = model.bundle, None
    else:
        refuse_model_beside_bundle(bundle_dir)
        named = str(bundle_dir)
    from runtime.article.folder import open_model
    from runtime.bundle_spec import spec_of_bundle

    bundle = open_model(bundle_dir)
    planning = as_stored(planning, bundle)
    spec = spec_of_bundle(bundle)
    stored = stored_precisions(bundle, planning.engines)
    return planning.request(spec, named, stored, ort_choices(bundle)), None


def _question_of_profile(planning: Planning, model: StoredModel) -> tuple[PlanRequest, str | None]:
    """The question about a model that has not been exported into the store."""
    from runtime.model_store import repository_of, spec_of_model
    from scheduler.plan import Precision

    spec = spec_of_model(model)
    choices = frozenset(get_args(Precision)) if planning.policy == "fit" else frozenset()
    request = planning.request(spec, ort_precisions=choices)
    if model.bundle or model.checkpoint:
        return request, None
    if repository_of(model.name):
        return request, f"glm-plan pull {model.name}"
    return request, f"glm-plan export CHECKPOINT --name {model.name}"


def _show_table(request: PlanRequest, plan: Plan, devices: Devices, as_json: bool) -> None:
    from scheduler.block_table import split_rows, table_document

    rows = split_rows(request, plan, devices)
    if as_json:
        import json

        click.echo(json.dumps(table_document(plan, rows), indent=2))
        return
    from runtime.cli.table_view import show_table

    show_table(plan, rows)
