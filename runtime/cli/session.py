"""A loaded model for run, chat and demo: start its stages as planned and say what differs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from runtime.bundle import Bundle
from runtime.chat_format import chat_format_of
from runtime.conversation import Conversation
from runtime.engine import Engine
from runtime.launch import StageLaunch
from runtime.launch_here import launches_here
from runtime.memory_watch import deviations, held_now, memory_needs
from runtime.pipeline import Pipeline, ProgressCallback
from runtime.worker import Loaded
from scheduler.model import ModelSpec
from scheduler.plan import Plan

if TYPE_CHECKING:
    from runtime.cluster.start import ClusterStart


@dataclass(frozen=True)
class Session:
    """A plan that runs: its bundle, its engine, and a conversation with it."""

    plan: Plan
    bundle: Bundle
    engine: Engine
    conversation: Conversation

    @property
    def launches(self) -> list[StageLaunch]:
        """What really started, stage by stage."""
        return self.engine.pipeline.launches


@contextmanager
def open_session(
    plan: Plan,
    spec: ModelSpec,
    bundle: Bundle,
    system: str | None = None,
    *,
    raw: bool = False,
    start: ClusterStart | None = None,
) -> Iterator[Session]:
    """Load the model as planned; end its workers afterwards. ``raw``: without chat template.

    `start` starts the stages on the hosts of a cluster.

    Notes such as "asked for CUDA, running on CPU", and memory beyond the plan, go to stderr. Raises
    PlanError when RAM is short and what the bundle, the backends and the engine raise.
    """
    launches = launches_here(plan, spec, bundle) if start is None else start.launches
    for launch in launches:
        if launch.notice:
            click.echo(launch.notice, err=True)
    chat_format = chat_format_of(bundle, raw=raw)
    with _load_progress(launches) as on_progress:
        engine = Engine(
            bundle,
            launches,
            plan.context_tokens,
            on_progress,
            slots=plan.slots,
            cores=None if start is None else start.cores,
            start_pipeline=start or Pipeline,
        )
    with engine:
        if start is None:  # else other machines hold it
            needs = memory_needs(plan, spec, launches, engine.slots)
            for deviation in deviations(needs, held_now(needs, engine.pipeline.process_ids)):
                click.echo(deviation, err=True)
        yield Session(plan, bundle, engine, Conversation(engine, chat_format, system))


@contextmanager
def _load_progress(launches: list[StageLaunch]) -> Iterator[ProgressCallback | None]:
    """A bar over all parts on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        parts = sum(len(launch.block_files) + bool(launch.lm_head_file) for launch in launches)
        task = progress.add_task("loading", total=parts)

        def advance(launch: StageLaunch, loaded: Loaded) -> None:
            progress.update(task, advance=1, description=f"{loaded.part} on {launch.device}")

        yield advance
