"""The chat loop: read a line, stream the answer, obey /commands. It knows no planning."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from runtime.cli.interrupt import interruptible
from runtime.cli.talk import Talk
from scheduler.errors import UserInputError

_LONGEST_LINE_BYTES = 16 << 20
HELP = """\
/reset  forget the conversation
/plan   show which block is where
/quit   leave (so does Ctrl-D); Ctrl-C stops an answer"""


def chat_loop(
    talk: Talk,
    show_plan: Callable[[], None],
    history_file: Path,
) -> None:
    """Talk until /quit or the end of input; bad lines are answered, never fatal."""
    with _line_editing(history_file):
        while True:
            try:
                question = _read_line()
            except EOFError:
                return
            except KeyboardInterrupt:
                click.echo("(Ctrl-D or /quit leaves)")
                continue
            if question == "/quit":
                return
            if question == "/reset":
                talk.reset()
                click.echo("(a new conversation)")
            elif question == "/plan":
                show_plan()
            elif question.startswith("/"):
                click.echo(HELP)
            elif question:
                _answer(talk, question)


def _read_line() -> str:
    if sys.stdin.isatty():
        return input("› ").strip()
    content = sys.stdin.buffer.readline(_LONGEST_LINE_BYTES)
    if not content:
        raise EOFError
    return content.decode("utf-8", "replace").strip()


def _answer(talk: Talk, question: str) -> None:
    try:
        with interruptible() as interrupt:
            pieces = talk.ask(question)
            for piece in pieces:
                click.echo(piece, nl=False)
                if interrupt.requested:
                    pieces.close()
                    break
    except UserInputError as error:
        click.echo(f"({error})")
        return
    click.echo()
    if talk.dropped_rounds:
        dropped = talk.dropped_rounds
        click.echo(f"(the oldest rounds, {dropped} of them, no longer fit and were left out)")
    if sys.stdout.isatty():
        click.secho(talk.summary(), dim=True)


@contextlib.contextmanager
def _line_editing(history_file: Path) -> Iterator[None]:
    """Arrow keys and a lasting history, where Python has readline (Windows has its own)."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(history_file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            history_file.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(history_file)
