"""`glm-plan bench`: how fast a model runs here, measured, and against an earlier run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from runtime.cli.planning import planning_options
from runtime.cli.target import target_options
from scheduler.planning import Planning


def _counts(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or max(numbers) > 1 << 20:
        raise click.BadParameter(f"{text!r}; expected numbers such as 16,128.")
    return numbers


@click.command()
@target_options
@planning_options(default_model="tiny-glm")
@click.option(
    "--prompts",
    callback=_counts,
    default="16,128",
    show_default=True,
    metavar="N,..",
    help="Tokens of prompts.",
)
@click.option(
    "--outputs",
    callback=_counts,
    default="32",
    show_default=True,
    metavar="N,..",
    help="Tokens of answers, 2 or more.",
)
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A result that --json gave before.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--chart", type=click.Path(path_type=Path), metavar="FILE", help="Draw decode speeds as SVG."
)
def command(
    planning: Planning,
    bundle_dir: Path | None,
    plan_file: Path | None,
    prompts: tuple[int, ...],
    outputs: tuple[int, ...],
    runs: int,
    compare: Path | None,
    as_json: bool,
    chart: Path | None,
) -> None:
    """Measure time to first token, prefill and decode, one request alone and all slots together.

    Prompts are random tokens, answers go on past the end token. Every case is warmed up first.

    \b
    glm-plan bench --bundle DIR --slots 4
    glm-plan bench --prompts 16,1024 --outputs 32 --json > before.json
    glm-plan bench --compare before.json
    """
    from runtime.bench.bench import run_bench
    from runtime.bench.document import read_bench
    from runtime.bench.measure import Question
    from runtime.cli.bench_view import comparison_table, results_table, write_chart
    from runtime.cli.session import open_session
    from runtime.cli.target import target_of
    from scheduler.errors import UserInputError
    from scheduler.probe.cpu import probe_cpu

    if min(outputs) < 2:
        raise UserInputError("--outputs has 1; an answer needs 2 tokens to measure a decode step.")
    before = read_bench(compare) if compare is not None else None
    plan, spec, bundle = target_of(planning, bundle_dir, plan_file)
    cpu, _notes = probe_cpu(Path("/"), sys.platform)
    began = time.perf_counter()
    with open_session(plan, spec, bundle) as session:
        loaded = time.perf_counter() - began
        engine = session.engine
        questions = [
            Question(prompt, output, requests)
            for requests in sorted({1, engine.slots})
            for prompt in prompts
            for output in outputs
        ]
        with click.progressbar(length=len(questions), file=sys.stderr) as bar:

            def on_case(_: Question) -> None:
                bar.update(1)

            result = run_bench(engine, plan, spec, cpu, questions, runs, loaded, on_case)
    if chart is not None:
        write_chart(result, chart)
    if as_json:
        click.echo(result.model_dump_json(by_alias=True, indent=2))
        return
    from rich.console import Console

    console = Console()
    console.print(results_table(result))
    if before is not None:
        console.print(comparison_table(result, before))
