"""`glm-plan plan`: decide, explain, and save or print the decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.planning import Planning, planning_options

if TYPE_CHECKING:
    from scheduler.choose import Devices
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
    """
    from scheduler.plan_file import plan_json, write_plan
    from scheduler.planner import make_plan, planning_devices

    request, export_to = _question(planning, bundle_dir)
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

        show(plan, export_to)
    if out is not None and not as_json:
        click.echo(f"Plan written to {out}.")


def _question(planning: Planning, bundle_dir: Path | None) -> tuple[PlanRequest, str | None]:
    """What to ask the planner, and where to export to first where there is no bundle yet."""
    if bundle_dir is None:
        from scheduler.profiles import load_model

        spec = load_model(planning.model)
        export_to = None if _ships(spec.name) else f"{spec.name}-bundle"
        return planning.request(spec, export_to), export_to
    from runtime.article.folder import open_model
    from runtime.bundle_spec import spec_of_bundle
    from runtime.cli.target import as_stored, refuse_model_beside_bundle, stored_precisions

    refuse_model_beside_bundle(bundle_dir)
    bundle = open_model(bundle_dir)
    planning = as_stored(planning, bundle)
    spec = spec_of_bundle(bundle)
    return planning.request(spec, str(bundle_dir), stored_precisions(bundle)), None


def _show_table(request: PlanRequest, plan: Plan, devices: Devices, as_json: bool) -> None:
    from scheduler.block_table import split_rows, table_document

    rows = split_rows(request, plan, devices)
    if as_json:
        import json

        click.echo(json.dumps(table_document(plan, rows), indent=2))
        return
    from runtime.cli.table_view import show_table

    show_table(plan, rows)


def _ships(model: str) -> bool:
    """Tell whether a bundle of this model comes with glm-plan."""
    from importlib.resources import files

    return (files("profiles") / "models" / f"{model}-bundle").is_dir()
