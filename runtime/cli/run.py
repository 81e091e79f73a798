"""`glm-plan run`: one prompt, one streamed answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.generation_options import generation_options
from runtime.cli.on_cluster import cluster_options, target_on_cluster
from runtime.cli.planning import planning_options
from runtime.cli.target import target_options
from scheduler.planning import Planning

if TYPE_CHECKING:
    from runtime.cluster.frames import WireDtype

_LONGEST_PROMPT_BYTES = 16 << 20


@click.command()
@click.argument("prompt", required=False)
@target_options
@planning_options(default_model="tiny-glm")
@generation_options
@cluster_options
@click.option("--raw", is_flag=True, help="Continue PROMPT itself, without the chat template.")
@click.option("--stats", is_flag=True, help="Print measured times per stage to stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print answer and measured times as JSON.")
def command(
    prompt: str | None,
    planning: Planning,
    bundle_dir: Path | None,
    plan_file: Path | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    system: str | None,
    cluster: str | None,
    wire: WireDtype,
    raw: bool,
    stats: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT, streamed; without PROMPT or with "-" it is read from stdin.

    A model without a chat template continues PROMPT instead.

    \b
    glm-plan run "法国的首都是哪里？"
    glm-plan run --gpu-blocks 5 "What is the capital of France?"
    glm-plan run --bundle DIR --vram 11 "Hello"
    glm-plan run --cluster auto "Hello"       over the hosts of a Ray cluster
    """
    from runtime.article.greedy import require_greedy
    from runtime.bundle_spec import spec_of_bundle
    from runtime.chat_format import holds_conversations
    from runtime.cli.interrupt import interruptible
    from runtime.cli.session import open_session
    from runtime.cli.target import target_of
    from runtime.cli.timing import summary_line, timing_json, timing_table
    from runtime.engine import Generation
    from runtime.sampling import Sampling

    question = _question(prompt)
    sampling = Sampling(temperature, top_k, top_p, seed)
    start = None
    if cluster is None:
        plan, spec, bundle = target_of(planning, bundle_dir, plan_file)
    else:
        plan, bundle, start = target_on_cluster(cluster, wire, planning, bundle_dir, plan_file)
        spec = spec_of_bundle(bundle)
    require_greedy(bundle, sampling)
    generation = Generation()
    if not (raw or holds_conversations(bundle)):
        click.echo(f"{plan.model} has no chat template: it continues the text.", err=True)
    opened = open_session(plan, spec, bundle, system, raw=raw, start=start)
    with opened as session, interruptible() as interrupt:
        pieces = []
        stream = session.conversation.ask(question, sampling, max_tokens, generation)
        for piece in stream:
            pieces.append(piece)
            if not as_json:
                click.echo(piece, nl=False)
            if interrupt.requested:
                stream.close()
                break
        if as_json:
            _print_json("".join(pieces), plan.model, timing_json(session.launches, generation))
        else:
            click.echo()
        if stats:
            from rich.console import Console

            table = timing_table(session.launches, session.engine.pipeline.rss_bytes, [generation])
            Console(stderr=True).print(table)
        elif sys.stderr.isatty():
            click.secho(summary_line(generation), err=True, dim=True)
        if interrupt.requested:
            raise KeyboardInterrupt


def _question(prompt: str | None) -> str:
    """The prompt's text; bytes that are not UTF-8 become replacement characters."""
    from scheduler.errors import UserInputError

    if prompt is None and sys.stdin.isatty():
        raise UserInputError('there is no prompt; write glm-plan run "your question".')
    if prompt is None or prompt == "-":
        content = sys.stdin.buffer.read(_LONGEST_PROMPT_BYTES + 1)
        if len(content) > _LONGEST_PROMPT_BYTES:
            raise UserInputError(
                f"the prompt is over {_LONGEST_PROMPT_BYTES >> 20} MiB; expected what fits the"
                " model's context."
            )
        text = content.decode("utf-8", "replace").strip()
    else:
        text = prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not text.strip():
        raise UserInputError("the prompt is empty; expected some text.")
    return text


def _print_json(text: str, model: str, timing: dict[str, object]) -> None:
    import json

    document = {"schema": "glm-plan/answer/1", "model": model, "text": text, "timing": timing}
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))
