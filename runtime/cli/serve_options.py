"""Options of a server that are not about placement, and the file that may hold all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from scheduler.errors import UserInputError
from scheduler.toml_file import read_toml
from scheduler.units import parse_size
from scheduler.wording import near_matches, shorten, show_value

ENVIRONMENT_PREFIX = "GLM_PLAN"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def service_options(function: _Function) -> _Function:
    """Add the options whose values make ServiceSettings."""
    options = [
        click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen."),
        click.option(
            "--port",
            metavar="PORT",
            type=click.IntRange(0, 65535),
            default=8080,
            help="0 takes any free one.",
        ),
        click.option(
            "--api-key",
            multiple=True,
            metavar="KEY",
            help="A key that clients must send. Repeat it for more; others on this machine can see"
            " flags, so a file is better.",
        ),
        click.option(
            "--api-key-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Keys, one on each line.",
        ),
        click.option(
            "--insecure", is_flag=True, help="Listen beyond this machine without any key."
        ),
        click.option(
            "--queue",
            metavar="N",
            type=click.IntRange(0, 100_000),
            default=64,
            help="Answers that may wait for a slot; more are refused with 429.",
        ),
        click.option(
            "--request-seconds",
            metavar="SECONDS",
            type=click.FloatRange(0.1),
            default=600.0,
            help="Longest time of an answer, with its waiting.",
        ),
        click.option(
            "--drain-seconds",
            metavar="SECONDS",
            type=click.FloatRange(0),
            default=30.0,
            help="How long running answers may take when the server is told to end.",
        ),
        click.option(
            "--keep-alive-seconds",
            metavar="SECONDS",
            type=click.FloatRange(0.05),
            default=10.0,
            help="A silent stream sends a comment this often.",
        ),
        click.option(
            "--max-body",
            "max_body_bytes",
            default="4MiB",
            metavar="SIZE",
            callback=lambda _context, _option, text: parse_size(text, "--max-body"),
            help="Largest body of a request.",
        ),
        click.option(
            "--max-messages",
            metavar="N",
            type=click.IntRange(1),
            default=1024,
            help="Most messages of a conversation.",
        ),
        click.option(
            "--cors-origin",
            multiple=True,
            metavar="ORIGIN",
            help="A web site whose pages may ask, such as https://example.org. Repeat it for more.",
        ),
        click.option(
            "--back-off",
            type=click.Choice(["slots", "blocks", "off"]),
            default="slots",
            help="What to give up when other programs take memory that answers would need: slots"
            " take no new answers until it is back; blocks leave a GPU, too, where no slot is left;"
            " off only tells, in /health and the log.",
        ),
        click.option(
            "--log-level",
            type=click.Choice(["error", "warning", "info", "debug"]),
            default="warning",
            help="info also logs a line for each request; prompts are never logged.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            help="json: an object on each line of stderr, with the request's id.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def config_option(function: _Function) -> _Function:
    """Add --config, a TOML file of option names and values, weaker than flags and environment."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        metavar="FILE",
        callback=_read_config,
        help="TOML with any of these options: port = 9000, vram = [11].",
    )(function)


def _read_config(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    document = read_toml(path, f"--config {path}", "a server's configuration")
    names = {
        flag.removeprefix("--").replace("-", "_"): one
        for one in context.command.params
        for flag in one.opts
    }
    values: dict[str, Any] = {}
    for key, value in document.items():
        option = names.get(key.replace("-", "_"))
        if option is None or option.name is None:
            raise UserInputError(
                f"--config {path}: {shorten(key)} is no option; {near_matches(key, list(names))}"
            )
        if option.multiple != isinstance(value, list) or isinstance(value, dict):
            expected = "a list" if option.multiple else "one value"
            raise UserInputError(
                f"--config {path}: {key} is {show_value(value)}; expected {expected}."
            )
        values[option.name] = [str(one) for one in value] if option.multiple else str(value)
    context.default_map = values
