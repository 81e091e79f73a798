"""`glm-plan plan`: decide, explain, and save or print the decision."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.planning import Planning, planning_options


@click.command()
@planning_options(default_model="chatglm-6b")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON and nothing else.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the plan's JSON to FILE.",
)
def command(planning: Planning, as_json: bool, out: Path | None) -> None:
    """Decide which blocks live on the GPU and which on the CPU.

    Free memory is measured, or stated with --vram to plan for a machine that is not here. Nothing
    is loaded.

    \b
    glm-plan --vram 11                      a GPU with 11 GiB free
    glm-plan --vram 11 --vram 8             two GPUs, filled in this order
    glm-plan --vram 11 --precision int4     smaller weights on both sides
    glm-plan --gpu-blocks 20                your own count
    """
    from scheduler.plan_file import plan_json, write_plan
    from scheduler.profiles import load_model

    spec = load_model(planning.model)
    bundle = None if _ships(spec.name) else f"{spec.name}-bundle"
    plan = planning.plan(spec, bundle)
    if out is not None:
        write_plan(plan, out)
    if as_json:
        click.echo(plan_json(plan))
        return
    from runtime.cli.plan_view import show

    show(plan, bundle)
    if out is not None:
        click.echo(f"Plan written to {out}.")


def _ships(model: str) -> bool:
    """Tell whether a bundle of this model comes with glm-plan."""
    from importlib.resources import files

    return (files("profiles") / "models" / f"{model}-bundle").is_dir()
