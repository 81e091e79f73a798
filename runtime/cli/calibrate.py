"""`glm-plan calibrate`: measure this machine, or take measurements made elsewhere."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from scheduler.errors import UserInputError

if TYPE_CHECKING:
    from scheduler.host_profile import HostProfile
    from scheduler.plan import Precision
    from scheduler.split_fit import SplitFit

_PRECISIONS = click.Choice(["fp32", "fp16", "int8", "int4"])


@click.command()
@click.option("--name", metavar="NAME", help="Of the stored profile.  [default: the host's name]")
@click.option(
    "--from",
    "rows_file",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Fit measured splits instead: columns gpu_blocks, tokens_per_second and, if known,"
    " vram_mib.",
)
@click.option("--model", metavar="NAME", help="The model of --from.  [default: chatglm-6b]")
@click.option("--gpu-precision", type=_PRECISIONS, help="On the GPU, in --from.  [default: fp16]")
@click.option("--cpu-precision", type=_PRECISIONS, help="On the CPU, in --from.  [default: fp32]")
@click.option(
    "--weight-bits", type=float, metavar="BITS", help="Mean bits of a weight in --from, both sides."
)
@click.option(
    "--context", type=int, metavar="N", help="Tokens in the cache in --from.  [default: 64]"
)
@click.option("--width", type=click.IntRange(128, 8192), hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
def command(
    name: str | None,
    rows_file: Path | None,
    model: str | None,
    gpu_precision: str | None,
    cpu_precision: str | None,
    weight_bits: float | None,
    context: int | None,
    width: int | None,
    as_json: bool,
) -> None:
    """Measure how fast this machine runs real blocks; plans then say "calibrated".

    Where ONNX Runtime is installed, it is measured beside MNN, and --policy fit and bundles with
    files for both take the faster one. Takes about two minutes, less when repeated: the blocks are
    kept. With --from, constants are
    fitted to measurements of another machine, two splits at least; --host NAME plans with them.

    \b
    glm-plan calibrate
    glm-plan calibrate --from measurements.csv --model chatglm-6b --name desktop
    glm-plan --host desktop --vram 11
    """
    from scheduler.host_store import check_host_name, save_host

    of_rows = {
        "--model": model,
        "--gpu-precision": gpu_precision,
        "--cpu-precision": cpu_precision,
        "--weight-bits": weight_bits,
        "--context": context,
    }
    if rows_file is None:
        stray = next((flag for flag, value in of_rows.items() if value is not None), None)
        if stray is not None:
            raise UserInputError(
                f"{stray} describes the measurements of --from CSV; name the file."
            )
        chosen = check_host_name(name) if name else _own_name()
        profile, fit = _measure(chosen, width), None
    else:
        chosen = check_host_name(name if name else rows_file.stem)
        profile, fit = _fit(
            rows_file,
            chosen,
            model or "chatglm-6b",
            cast("Precision", gpu_precision or "fp16"),
            cast("Precision", cpu_precision or "fp32"),
            weight_bits,
            64 if context is None else context,
        )
    path = save_host(profile)
    if as_json:
        click.echo(json.dumps(profile.model_dump(mode="json", by_alias=True), indent=1))
        return
    from runtime.cli.calibrate_view import show

    show(profile, path, fit)


def _own_name() -> str:
    """The host's name with nothing in it that a file name cannot take."""
    kept = "".join(one if one.isascii() and one.isalnum() else "-" for one in socket.gethostname())
    return kept.strip("-")[:64] or "this-host"


def _measure(name: str, width: int | None) -> HostProfile:
    import sys
    from importlib.util import find_spec

    from rich.console import Console
    from rich.progress import Progress

    from runtime.backends.ort_proof import prove_ort
    from runtime.calibrate.parts import choose_width
    from scheduler.backend_names import Engine
    from scheduler.probe.cpu import probe_cpu

    if find_spec("MNN") is None:
        raise UserInputError("Calibrating runs blocks and needs the engine: pip install MNN.")
    from runtime.calibrate.measure import calibrate

    cpu, _notes = probe_cpu(Path("/"), sys.platform)
    engines: tuple[Engine, ...] = ("mnn",)
    if find_spec("onnxruntime") and "ort:cpu" in prove_ort(("cpu",)).working:
        engines = ("mnn", "ort")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        return calibrate(
            cpu,
            name,
            width or choose_width(cpu.available_bytes, engines),
            engines,
            lambda what, share: bar.update(task, description=what, completed=share),
        )


def _fit(
    rows_file: Path,
    name: str,
    model: str,
    gpu_precision: Precision,
    cpu_precision: Precision,
    weight_bits: float | None,
    context: int,
) -> tuple[HostProfile, SplitFit]:
    from runtime.on_disk import spec_by_name
    from scheduler.split_fit import SplitQuestion, fit_splits, profile_of_splits
    from scheduler.split_rows import read_split_rows

    rows = read_split_rows(rows_file)
    question = SplitQuestion(
        spec_by_name(model), gpu_precision, cpu_precision, context, weight_bits
    )
    fit = fit_splits(rows, question, f"{len(rows)} rows of {rows_file.name}")
    return profile_of_splits(fit, name), fit
