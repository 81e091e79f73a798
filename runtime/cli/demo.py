"""`glm-plan demo`: the whole path in one go, on a model that ships with the package."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.units import GIB, MIB

if TYPE_CHECKING:
    from runtime.bundle import Bundle

MODEL = "tiny-glm"
QUESTIONS = ("法国的首都是哪里？", "What is the opposite of hot?", "12+7等于多少？")
# What is left of 1 GiB then holds about five of the tiny model's eight blocks.
DEMO_VRAM_BYTES = 1024 * MIB
DEMO_RESERVE_BYTES = 1022 * MIB
DEMO_CONTEXT = 512


@click.command()
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Export into DIR and leave the bundle there.  [default: a temporary directory]",
)
def command(keep: Path | None) -> None:
    """Plan ChatGLM-6B for 11 GiB, then export, split and run the tiny model."""
    from runtime.cli.plan_view import show
    from scheduler.planner import make_plan
    from scheduler.probe import probe_host
    from scheduler.profiles import load_model
    from scheduler.request import PlanRequest

    host = probe_host()
    _title("1. Plan ChatGLM-6B for a graphics card with 11 GiB free")
    show(make_plan(PlanRequest(load_model("chatglm-6b"), vram_bytes=(11 * GIB,)), host))
    with tempfile.TemporaryDirectory(prefix="glm-plan-demo-") as scratch:
        _title("2. Export the tiny model: one file per block")
        bundle = _bundle(keep or Path(scratch) / "bundle")
        _title("3. Plan it for a small graphics card, so that its blocks split over two stages")
        from runtime.bundle_spec import spec_of_bundle

        spec = spec_of_bundle(bundle)
        request = PlanRequest(
            spec,
            vram_bytes=(DEMO_VRAM_BYTES,),
            reserve_bytes=DEMO_RESERVE_BYTES,
            context=DEMO_CONTEXT,
        )
        plan = make_plan(request, host)
        show(plan)
        _title("4. Ask it")
        from runtime.cli.session import open_session
        from runtime.cli.timing import timing_table
        from runtime.engine import Generation
        from runtime.sampling import Sampling

        generations = []
        with open_session(plan, spec, bundle) as session:
            for question in QUESTIONS:
                click.secho(f"› {question}", bold=True)
                generations.append(Generation())
                session.conversation.reset()
                for piece in session.conversation.ask(question, Sampling(), 64, generations[-1]):
                    click.echo(piece, nl=False)
                click.echo()
            from rich.console import Console

            click.echo()
            rss_bytes = session.engine.pipeline.rss_bytes
            Console().print(timing_table(session.launches, rss_bytes, generations))
        if keep is not None:
            click.echo(f'Ask it more: glm-plan run --bundle {keep} --gpu-blocks 5 "你好"')
        else:
            click.echo("Ask it more: glm-plan chat")


def _bundle(out: Path) -> Bundle:
    """Export the tiny model's checkpoint, or open the shipped bundle where the extra is missing."""
    from importlib.resources import files

    from runtime.bundle import open_bundle

    models = Path(str(files("profiles"))) / "models"
    if find_spec("onnx") is None or find_spec("safetensors") is None:
        click.echo(
            "Skipped: exporting needs pip install 'glm-plan[export]'. The bundle that ships with"
            " glm-plan was made by the same command and is used instead."
        )
        return open_bundle(models / f"{MODEL}-bundle")
    from runtime.cli.export import export_and_report

    export_and_report(models / MODEL, out, ["fp16"])
    return open_bundle(out)


def _title(text: str) -> None:
    click.echo()
    click.secho(text, bold=True, underline=True)
    click.echo()
