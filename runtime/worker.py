"""The process that owns one stage: its start, its parts, and the end of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from runtime.allocator import return_freed_memory
from runtime.article.stage import ArticleStage
from runtime.lanes import LaneShape
from runtime.manifest import Layout
from runtime.rotary import Rotary
from runtime.stage import Stage
from runtime.stage_loop import LoopArrays, LoopConfig, StageLoop
from scheduler.errors import GlmPlanError


@dataclass(frozen=True)
class WorkerConfig:
    """All that a worker is told at its start; plain data, since it travels to a spawned process."""

    backend: str  # what really runs: mnn:cpu, ort:webgpu
    cuda_device: str | None  # the one GPU that this process may see
    threads: int
    half_arithmetic: bool  # on a GPU, where weights are fp16
    fine_scales: bool  # of activations that MNN quantises
    kv_heads: int
    head_dim: int
    rotary: Rotary
    lanes: LaneShape
    block_files: tuple[tuple[int, Path], ...]  # block number and file, in order
    lm_head_file: Path | None
    layout: Layout
    loop: LoopConfig
    memory_limit_bytes: int | None = None  # of the device, for all that this process holds there


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
class Failed:
    """Loading failed; one sentence."""

    reason: str


def worker_main(
    config: WorkerConfig, control: Connection, inbox: Connection, after: Connection | None
) -> None:
    """Load the stage, then serve steps until nobody can send any, or the parent goes away.

    `control` leads to the parent and `after` to the next stage. Into `inbox` write the parent and
    the stage before.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # for the parent, which then closes the pipe
    _silence_stdout()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return_freed_memory()
    try:
        stage = load_stage(config, control.send)
        arrays = LoopArrays.attached(config.loop)
        loop = StageLoop(config.loop, config.lanes, stage, control, inbox, after, arrays)
        control.send(Ready(psutil.Process().memory_info().rss))
        loop.serve()
    except GlmPlanError as error:
        control.send(Failed(str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has closed the pipeline, or is gone


def _end_with_parent() -> None:
    """End when a parent is killed while the stage before this one hangs and keeps the pipe open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _silence_stdout() -> None:
    """Engines print from C to descriptor 1, which belongs to answers and JSON."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def load_stage(config: WorkerConfig, tell: Callable[[Loaded], None]) -> Stage | ArticleStage:
    """Load the parts of a stage, telling of each; EngineError where one cannot be loaded."""
    if config.cuda_device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = config.cuda_device
    # Imported here: the parent shares this module but must never load an engine.
    from runtime.backends.choose import open_backend
    from runtime.backends.mnn_article import ArticleBackend

    backend = (
        ArticleBackend(config.backend.partition(":")[2], config.threads, config.lanes.hidden_size)
        if config.layout == "article"
        else open_backend(
            config.backend,
            config.threads,
            config.kv_heads,
            config.head_dim,
            config.half_arithmetic,
            config.fine_scales,
            config.memory_limit_bytes,
        )
    )
    process = psutil.Process()
    for number, path in config.block_files:
        backend.load_block(path)
        tell(Loaded(f"block {number}", process.memory_info().rss))
    if config.lm_head_file is not None:
        backend.load_lm_head(config.lm_head_file)
        tell(Loaded("lm_head", process.memory_info().rss))
    if isinstance(backend, ArticleBackend):
        return ArticleStage(backend, config.lanes.vocab_size)
    return Stage(backend, config.rotary, config.lanes.most_tokens + 1)
