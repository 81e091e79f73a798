"""Chat templates rendered as `transformers` renders them; runs inside a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_PROMPT_CHARACTERS = 8 << 20


class TooLongError(Exception):
    """The rendered text is longer than any prompt."""


class _Generation(Extension):
    """`{% generation %}` marks an assistant's text for training; here it only renders."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads the class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **attributes).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


def render(template: str, variables: dict[str, Any]) -> str:
    """The text of a template.

    Raises jinja2.TemplateError for templates that are wrong or refuse what they got, TooLongError,
    and whatever else a hostile template provokes; a caller must bound time and memory.
    """
    parts: list[str] = []
    left = MAX_PROMPT_CHARACTERS
    for part in compile_template(template).generate(**variables):
        left -= len(part)
        if left < 0:
            raise TooLongError
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=4)
def compile_template(template: str) -> jinja2.Template:
    """Parse a template in the environment that templates are written for."""
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    # The same options, filters and functions as `transformers` has in its chat_template_utils.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": _Namespace,
        "dict": _dict,
    }
    environment.globals.update(functions)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _dict(*args: Any, **entries: Any) -> dict[Any, Any]:
    """`dict` without the methods of the type, such as mro."""
    return dict(*args, **entries)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
