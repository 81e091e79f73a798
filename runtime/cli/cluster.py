"""`glm-plan cluster`: what runs on a Ray cluster now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runtime.cluster.status import ClusterStatus, RunStatus


@click.group()
def command() -> None:
    """Look at models that run on several machines, joined by Ray."""


@command.command()
@click.option(
    "--address",
    default="auto",
    show_default=True,
    metavar="HOST:PORT",
    help="Of the Ray cluster; auto is the one that this machine belongs to.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(address: str, as_json: bool) -> None:
    """Show hosts and, for every model that runs, its stages, bytes, speed and hops."""
    from runtime.cluster.status import cluster_status

    found = cluster_status(address)
    if as_json:
        click.echo(found.model_dump_json(by_alias=True, indent=2))
        return
    _print(found)


def _print(found: ClusterStatus) -> None:
    from runtime.cli.tables import print_table
    from scheduler.units import format_size

    hosts = ", ".join(f"{one.name} ({one.cpus:g} CPUs, {one.address})" for one in found.hosts)
    click.echo(f"{len(found.hosts)} hosts: {hosts}")
    for run in found.runs:
        click.echo(f"\n{run.model}, run {run.run}")
        print_table(
            ("stage", "device", "backend", "blocks"),
            ("memory", "fetched", "received"),
            [
                (
                    str(stage.stage),
                    stage.device,
                    stage.backend,
                    stage.blocks + (" + lm_head" if stage.lm_head else ""),
                    format_size(stage.rss_bytes),
                    format_size(stage.fetched_bytes),
                    format_size(stage.received_bytes),
                )
                for stage in run.stages
            ],
            note=_speed(run),
        )
        for number in run.missing_stages:
            click.echo(f"stage {number} does not answer.")
        for sentence in run.degraded:
            click.echo(f"degraded: {sentence}")
    if not found.runs:
        click.echo("No model of glm-plan runs here.")


def _speed(run: RunStatus) -> str:
    if run.hop_seconds is None:
        return "No tokens in the last seconds."
    return (
        f"Measured in the last seconds: {run.tokens_per_second:.1f} tokens/s,"
        f" {1e3 * run.hop_seconds:.2f} ms of each step between stages."
    )
