"""A loaded model for run, chat and demo: start its stages as planned and say what differs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from runtime.backends.proof import prove_backends
from runtime.bundle import Bundle
from runtime.chat_format import chat_format_of
from runtime.conversation import Conversation
from runtime.engine import Engine
from runtime.launch import StageLaunch, check_ram, launches_of
from runtime.pipeline import ProgressCallback
from runtime.worker import Loaded
from scheduler.model import ModelSpec
from scheduler.plan import Plan
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.nvml import probe_gpus


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
    plan: Plan, spec: ModelSpec, bundle: Bundle, system: str | None = None
) -> Iterator[Session]:
    """Load the model as planned; end its workers afterwards.

    Notes such as "asked for CUDA, running on CPU" go to stderr. Raises PlanError when RAM is short
    and what the bundle, the backends and the engine raise.
    """
    asked = {stage.backend for stage in plan.stages}
    working = frozenset({"mnn:cpu"})
    cuda_devices: dict[str, str] = {}
    if asked - working:
        gpus, _notes = probe_gpus(os.environ, sys.platform)
        working = prove_backends(gpus).working
        cuda_devices = {gpu.name: gpu.uuid for gpu in gpus if gpu.uuid}
    cpu, _notes = probe_cpu(Path("/"), sys.platform)
    launches = launches_of(plan, bundle, working, cuda_devices, cpu.usable_cores)
    for launch in launches:
        if launch.fallback:
            click.echo(f"{launch.device}: {launch.fallback}", err=True)
    check_ram(plan, spec, launches, cpu.available_bytes)
    chat_format = chat_format_of(bundle)
    with _load_progress(launches) as on_progress:
        engine = Engine(bundle, launches, plan.context_tokens, on_progress)
    with engine:
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
