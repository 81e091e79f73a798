"""What a calibration found, beside what its constants say of it."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.tables import print_table
from scheduler.host_profile import HostProfile
from scheduler.split_fit import SplitFit

_GIGA = 1e9


def show(profile: HostProfile, path: Path, fit: SplitFit | None) -> None:
    """Print evidence with residuals, the constants, and where they are kept."""
    print_table(
        ("measured",),
        ("ms", "spread", "fitted ms", "residual"),
        (
            (
                one.what,
                f"{1000 * one.measured_seconds:.3f}",
                "" if one.spread is None else f"{one.spread:.0%}",
                f"{1000 * one.predicted_seconds:.3f}",
                f"{one.residual:+.1%}",
            )
            for one in profile.evidence
        ),
        "Medians; the spread is the interquartile range over the median.",
    )
    for name, device in [*sorted(profile.devices.items()), *profile.backends.items()]:
        rates = {"all": device.bandwidth_bytes_per_second} | {
            precision: rate.bytes_per_second for precision, rate in device.weights.items()
        }
        told = ", ".join(f"{what} {rate / _GIGA:.1f}" for what, rate in rates.items())
        click.echo(f"{name}: weights in GB/s: {told} (calibrated: {device.source})")
    ram = profile.facts.get("ram_read_bytes_per_second")
    if isinstance(ram, float):
        click.echo(f"RAM: {ram / _GIGA:.1f} GB/s read (measured)")
    if profile.threads:
        told = ", ".join(f"{p.threads}: {1000 * p.block_seconds:.2f} ms" for p in profile.threads)
        click.echo(f"threads, int4 block: {told} (measured)")
    if fit is not None:
        _show_split(fit)
    click.echo(f"Stored as {profile.name} in {path}; plan with --host {profile.name}.")


def _show_split(fit: SplitFit) -> None:
    click.echo(
        f"a block: {1000 * fit.gpu_block_seconds:.2f} ms on the GPU,"
        f" {1000 * fit.cpu_block_seconds:.2f} ms on the CPU; lm_head"
        f" {1000 * fit.lm_head_seconds:.1f} ms (calibrated)"
    )
    if fit.hop_fitted:
        latency = 1000 * fit.speeds.hop.latency_seconds
        click.echo(f"a hop: {latency:.2f} ms (calibrated)")
    if fit.vram is not None:
        click.echo(
            f"VRAM: {fit.vram.base_mib:,.0f} MiB and {fit.vram.block_mib:.1f} MiB a block, within"
            f" {fit.vram.largest_residual_mib:.1f} MiB (calibrated)"
        )
    for note in fit.notes:
        click.echo(f"note: {note}")
