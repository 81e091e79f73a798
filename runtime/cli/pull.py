"""`glm-plan pull`: fetch a model's checkpoint from a Hugging Face hub into the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from scheduler.units import format_size

if TYPE_CHECKING:
    from runtime.pull import Progress, Pulled

SCHEMA = "glm-plan/pull/1"


@click.command()
@click.argument("model", metavar="NAME|OWNER/NAME")
@click.option(
    "--file",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Fetch what matches instead: a path, a pattern such as '*.gguf', or part of a GGUF file's"
    " name such as Q8_0.",
)
@click.option(
    "--revision", metavar="REV", help="A branch, tag or commit.  [default: the main branch]"
)
@click.option("--name", metavar="NAME", help="What to call it here.  [default: its own name]")
@click.option("--force", is_flag=True, help="Replace another model of that name.")
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
def command(
    model: str,
    patterns: tuple[str, ...],
    revision: str | None,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Fetch a model: one that `glm-plan models` lists, or any repository of the hub.

    Only configuration, tokenizer and weights are fetched (safetensors if there are any, else
    PyTorch files, else one GGUF file), each compared with the hub's checksum. Run it again to go
    on after an interruption, or to get what has changed. The environment variables of
    huggingface_hub apply: HF_TOKEN, HF_ENDPOINT for a mirror, HF_HUB_OFFLINE, proxies.

    \b
    glm-plan pull qwen3-0.6b
    glm-plan pull Qwen/Qwen3-0.6B-GGUF --file Q8_0
    glm-plan run --model qwen3-0.6b "Hello"
    """
    from runtime.pull import PullRequest, pull_model

    request = PullRequest(model, revision, patterns, name, force)
    with _progress_bar() as on_progress:
        pulled = pull_model(request, on_progress)
    if as_json:
        click.echo(json.dumps(document(pulled), indent=1))
        return
    size = format_size(sum(one.size_bytes for one in pulled.origin.files))
    how = f"{format_size(pulled.fetched_bytes)} fetched" if pulled.fetched_bytes else "up to date"
    name = pulled.model.name
    click.echo(
        f"{name}: {pulled.origin.repo} at {pulled.origin.commit[:12]}, {size} ({how}) in"
        f" {pulled.model.checkpoint_home}"
    )
    click.echo(f"Run it: glm-plan chat --model {name}")


def document(pulled: Pulled) -> dict[str, Any]:
    """The JSON form: what is there, sizes in bytes, and how much of it this pull fetched."""
    origin = pulled.origin
    return {
        "schema": SCHEMA,
        "model": pulled.model.name,
        "checkpoint": str(pulled.model.checkpoint),
        "repo": origin.repo,
        "revision": origin.revision,
        "commit": origin.commit,
        "files": [one.model_dump() for one in origin.files],
        "total_bytes": sum(one.size_bytes for one in origin.files),
        "fetched_bytes": pulled.fetched_bytes,
    }


class _progress_bar:  # noqa: N801 (used like a function: with _progress_bar() as on_progress)
    """On a terminal's stderr a bar over all bytes; elsewhere one line for each file."""

    def __enter__(self) -> Callable[[Progress], None]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._path = ""
        self._shown = sys.stderr.isatty()
        self._task = self._bar.add_task("asking the hub", total=None)
        if self._shown:
            self._bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._bar.stop()

    def _update(self, progress: Progress) -> None:
        if self._path != progress.path:
            if not self._shown:
                click.echo(f"fetching {progress.path}", err=True)
            elif not self._path:
                # From here on the speed counts, which what was there already must not raise.
                self._bar.reset(self._task, completed=progress.done_bytes)
            self._path = progress.path
        self._bar.update(
            self._task,
            description=progress.path,
            completed=progress.done_bytes,
            total=progress.total_bytes,
        )
