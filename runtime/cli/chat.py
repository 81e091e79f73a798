"""`glm-plan chat`: a conversation in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.generation_options import generation_options
from runtime.cli.planning import planning_options
from runtime.cli.target import target_options
from scheduler.planning import Planning


@click.command()
@target_options
@planning_options(default_model="tiny-glm")
@generation_options
def command(
    planning: Planning,
    bundle_dir: Path | None,
    plan_file: Path | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    system: str | None,
) -> None:
    """Talk with a model; /reset starts over, /plan shows the placement, /quit leaves."""
    from runtime.article.greedy import require_greedy
    from runtime.cli.plan_view import show
    from runtime.cli.session import open_session
    from runtime.cli.target import target_of
    from runtime.cli.terminal_chat import chat_loop
    from runtime.sampling import Sampling
    from scheduler.profile_files import config_dir

    sampling = Sampling(temperature, top_k, top_p, seed)
    plan, spec, bundle = target_of(planning, bundle_dir, plan_file)
    require_greedy(bundle, sampling)
    with open_session(plan, spec, bundle, system) as session:
        placed = ", ".join(f"{launch.device} {launch.block_span}" for launch in session.launches)
        click.echo(f"{plan.model}: blocks {placed}. /help for commands.", err=True)

        def show_plan() -> None:
            show(plan)
            for launch in session.launches:
                if launch.fallback:
                    click.echo(f"{launch.device}: {launch.fallback}")

        chat_loop(
            session.conversation, sampling, max_tokens, show_plan, config_dir() / "chat_history"
        )
