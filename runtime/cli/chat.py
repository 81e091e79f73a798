"""`glm-plan chat`: a conversation in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.generation_options import generation_options
from runtime.cli.planning import planning_options
from runtime.cli.target import target_options
from scheduler.planning import Planning

if TYPE_CHECKING:
    from runtime.cli.server_talk import ServerTalk


@click.command()
@target_options
@planning_options(default_model="tiny-glm")
@generation_options
@click.option(
    "--server",
    metavar="URL",
    help="Talk with this server instead of loading a model: `glm-plan serve`, or another one with"
    " OpenAI's API.",
)
@click.option(
    "--api-key",
    metavar="KEY",
    envvar="GLM_PLAN_API_KEY",
    help="The server's key.  [default: the environment's GLM_PLAN_API_KEY]",
)
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
    server: str | None,
    api_key: str | None,
) -> None:
    """Talk with a model; /reset starts over, /plan shows the placement, /quit leaves."""
    from runtime.article.greedy import require_greedy
    from runtime.chat_format import holds_conversations
    from runtime.cli.plan_view import show
    from runtime.cli.server_talk import ServerTalk
    from runtime.cli.session import open_session
    from runtime.cli.talk import LocalTalk
    from runtime.cli.target import refuse_planning_beside_server, target_of
    from runtime.cli.terminal_chat import chat_loop
    from runtime.sampling import Sampling
    from scheduler.errors import UserInputError
    from scheduler.profile_files import config_dir

    sampling = Sampling(temperature, top_k, top_p, seed)
    if server is not None:
        refuse_planning_beside_server()
        _talk_with_server(ServerTalk(server, api_key, sampling, max_tokens, system))
        return
    plan, spec, bundle = target_of(planning, bundle_dir, plan_file)
    require_greedy(bundle, sampling)
    if not holds_conversations(bundle):
        raise UserInputError(
            f"{plan.model} has no chat template: it was not trained to converse; use glm-plan run,"
            " which continues a text, or an instruct model."
        )
    with open_session(plan, spec, bundle, system) as session:
        placed = ", ".join(f"{launch.device} {launch.block_span}" for launch in session.launches)
        click.echo(f"{plan.model}: blocks {placed}. /help for commands.", err=True)

        def show_plan() -> None:
            show(plan)
            for launch in session.launches:
                if launch.notice:
                    click.echo(launch.notice)

        talk = LocalTalk(session.conversation, sampling, max_tokens)
        chat_loop(talk, show_plan, config_dir() / "chat_history")


def _talk_with_server(talk: ServerTalk) -> None:
    from runtime.cli.plan_view import show
    from runtime.cli.terminal_chat import chat_loop
    from scheduler.plan import Plan
    from scheduler.profile_files import config_dir

    click.echo(f"{talk.model} at {talk.url}. /help for commands.", err=True)
    try:
        chat_loop(
            talk, lambda: show(Plan.model_validate(talk.plan())), config_dir() / "chat_history"
        )
    finally:
        talk.close()
