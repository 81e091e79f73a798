"""Options about text, not placement: how tokens are chosen and how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


def generation_options(function: _Function) -> _Function:
    """Add --temperature, --top-k, --top-p, --seed, --max-tokens and --system to a click command."""
    options = [
        click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True),
        click.option(
            "--temperature", type=float, default=0.0, show_default=True, help="0 is greedy."
        ),
        click.option("--top-k", type=int, default=0, show_default=True, help="0 is off."),
        click.option("--top-p", type=float, default=1.0, show_default=True, help="1 is off."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option(
            "--system",
            metavar="TEXT",
            help="The system message; ChatGLM-6B reads it before the first question.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function
