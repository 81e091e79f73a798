"""Which options the user wrote on the command line, as against those left at their default."""

from __future__ import annotations

import click
from click.core import ParameterSource


def given_options() -> set[str]:
    """Parameter names of the options on the command line of the command that runs."""
    context = click.get_current_context()
    return {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
