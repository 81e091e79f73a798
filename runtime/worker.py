"""The process that owns one stage: its device, its backend, its share of the model."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from runtime.allocator import return_freed_memory
from runtime.article.stage import ArticleStage
from runtime.manifest import Layout
from runtime.rotary import Rotary
from runtime.shared_array import SharedArray
from runtime.stage import Stage, Step
from scheduler.errors import GlmPlanError


@dataclass(frozen=True)
class WorkerConfig:
    """All that a worker is told at its start; plain data, since it travels to a spawned process."""

    backend: str  # what really runs: mnn:cpu, mnn:cuda
    cuda_device: str | None  # the one GPU that this process may see
    threads: int
    kv_heads: int
    head_dim: int
    rotary: Rotary
    hidden_size: int
    vocab_size: int
    max_positions: int
    block_files: tuple[tuple[int, Path], ...]  # block number and file, in order
    lm_head_file: Path | None
    layout: Layout
    input_name: str  # shared memory: hidden states that come in, go out, and logits
    output_name: str
    final_name: str  # hidden states after the last block, which lm_head reads
    logits_name: str


@dataclass(frozen=True)
class Loaded:
    """Progress: this part is in memory; `rss_bytes` is what the whole process holds by now."""

    part: str
    rss_bytes: int


@dataclass(frozen=True)
class Ready:
    """Everything is loaded."""

    rss_bytes: int


@dataclass(frozen=True)
class Forward:
    """Run the stage's blocks over the hidden states in its input."""

    step: Step


@dataclass(frozen=True)
class LmHead:
    """Compute logits from the last positions of the final hidden states."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class Done:
    """The command finished; seconds of computing, without waiting."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """The command failed; one sentence."""

    reason: str


def worker_main(config: WorkerConfig, control: Connection) -> None:
    """Load the stage, then serve commands until the parent closes the pipe or goes away."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which then closes the pipe
    _silence_stdout()
    return_freed_memory()
    try:
        _serve(config, control)
    except GlmPlanError as error:
        control.send(Failed(str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone


def _silence_stdout() -> None:
    """Engines print from C to descriptor 1, which belongs to answers and JSON."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _serve(config: WorkerConfig, control: Connection) -> None:
    stage = _load(config, control)
    incoming = SharedArray.attach(config.input_name)
    outgoing = SharedArray.attach(config.output_name)
    final = SharedArray.attach(config.final_name)
    logits = SharedArray.attach(config.logits_name)
    control.send(Ready(psutil.Process().memory_info().rss))
    while True:
        command = control.recv()
        started = time.perf_counter()
        try:
            if isinstance(command, Forward):
                step = command.step
                shape = (len(step.rows), step.new_tokens, config.hidden_size)
                outgoing.view(*shape)[...] = stage.forward(step, incoming.view(*shape))
            else:
                hidden = final.view(command.rows, command.tokens, config.hidden_size)
                logits.view(command.rows, config.vocab_size)[...] = stage.lm_head(hidden)
        except GlmPlanError as error:
            control.send(Failed(str(error)))
            continue
        control.send(Done(time.perf_counter() - started))


def _load(config: WorkerConfig, control: Connection) -> Stage | ArticleStage:
    if config.cuda_device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = config.cuda_device
    # Imported here: the parent shares this module but must never load an engine.
    from runtime.backends.mnn import MnnBackend
    from runtime.backends.mnn_article import ArticleBackend

    kind = config.backend.partition(":")[2]
    backend = (
        ArticleBackend(kind, config.threads, config.hidden_size)
        if config.layout == "article"
        else MnnBackend(kind, config.threads, config.kv_heads, config.head_dim)
    )
    process = psutil.Process()
    for number, path in config.block_files:
        backend.load_block(path)
        control.send(Loaded(f"block {number}", process.memory_info().rss))
    if config.lm_head_file is not None:
        backend.load_lm_head(config.lm_head_file)
        control.send(Loaded("lm_head", process.memory_info().rss))
    if isinstance(backend, ArticleBackend):
        return ArticleStage(backend, config.vocab_size)
    return Stage(backend, config.rotary, config.max_positions)
