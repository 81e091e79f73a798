"""What a stage's actor does: keeps its files, waits for its wires, loads, and serves steps.

A plain class, so that it runs wherever Python does; `actors` makes a Ray actor of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from runtime.allocator import return_freed_memory
from runtime.article.stage import ArticleStage
from runtime.backends.protocol import FloatArray
from runtime.cluster.frames import FrameShape, WireDtype, bare
from runtime.cluster.part_cache import PartCache
from runtime.cluster.stage_wires import HiddenInlet, HiddenOutlet, ReplyOutlet, local_arrays
from runtime.cluster.wire import Wire, WireListener, connect
from runtime.manifest import BundleFile
from runtime.stage import Stage
from runtime.stage_loop import LoopConfig, StageLoop
from runtime.worker import Loaded, WorkerConfig, load_stage
from scheduler.errors import GlmPlanError

_NEIGHBOURS_SECONDS = 60.0


@dataclass(frozen=True)
class Address:
    """Where a stage listens."""

    host: str
    port: int


@dataclass(frozen=True)
class StageOrder:
    """All that a stage's actor is told; paths in `worker` are relative to the bundle."""

    worker: WorkerConfig
    dtype: WireDtype
    attempt: int  # wires of an earlier one are turned away
    first: bool  # takes its steps from the driver, not from a stage before it
    after: Address | None
    about: dict[str, Any]  # what `status` repeats: model, stage, device, blocks


class StageHost:
    """One stage on its machine.

    `serve` may be called again when it has returned: what is loaded already stays.
    """

    def __init__(self, address: str, secret: bytes, key: str, shared: Path | None) -> None:
        self._secret = secret
        self._listener = WireListener(address, secret)
        self._address = address
        self._cache = PartCache(key, shared)
        self._about: dict[str, Any] = {}
        self._reported: dict[str, Any] = {}
        self._wires: dict[str, Wire] = {}
        self._progress: FloatArray | None = None  # marks of its lanes, as LaneShape.progress
        self._loaded: tuple[WorkerConfig, Stage | ArticleStage] | None = None
        # An engine is used by the thread that loaded it, whichever of its threads Ray calls on.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stage")

    def where(self) -> tuple[Address, str]:
        """Where it listens, and the version of glm-plan that it runs."""
        return Address(self._address, self._listener.port), release()

    def missing(self, files: Sequence[BundleFile]) -> list[BundleFile]:
        """As `PartCache.missing`."""
        return self._cache.missing(files)

    def write(self, file: BundleFile, offset: int, data: bytes) -> None:
        """As `PartCache.write`."""
        self._cache.write(file, offset, data)

    def finish(self, file: BundleFile) -> None:
        """As `PartCache.finish`."""
        self._cache.finish(file)

    def status(self) -> dict[str, Any]:
        """What it is, what it holds and has done; `reported` is what the driver said last."""
        wires = dict(self._wires)
        inbox = wires.get("before", wires.get("driver"))
        return {
            **self._about,
            "pid": os.getpid(),
            "rss_bytes": psutil.Process().memory_info().rss,
            "messages": inbox.received_messages if inbox else 0,
            "received_bytes": sum(wire.received_bytes for wire in wires.values()),
            "sent_bytes": sum(wire.sent_bytes for wire in wires.values()),
            "reported": self._reported,
            "progress": [] if self._progress is None else self._progress.tolist(),
        }

    def report(self, reported: dict[str, Any]) -> None:
        """Keep what the driver measured, for `status`."""
        self._reported = reported

    def serve(self, order: StageOrder) -> str:
        """Load the stage and serve steps until a wire ends; why it ended, in a few words."""
        return self._thread.submit(self._serve, order).result()

    def _serve(self, order: StageOrder) -> str:
        self._about = order.about
        shape = FrameShape(order.worker.lanes, order.dtype)
        try:
            self._connect(order, shape)
            stage = self._stage(order)
            if stage is None:
                return "its parts could not be loaded"
            self._loop(order, shape, stage).serve()
        except (EOFError, OSError) as error:
            return str(error) or type(error).__name__
        finally:
            for wire in self._wires.values():
                wire.close()
            self._wires = {}
        return "it was told to end"

    def _connect(self, order: StageOrder, shape: FrameShape) -> None:
        """Join the stage after this one, the driver, and the stage before, whoever comes first."""
        after = order.after
        if after is not None:
            self._wires["after"] = connect(
                after.host, after.port, self._secret, f"before {order.attempt}", shape.most_bytes
            )
        roles = ("driver",) if order.first else ("driver", "before")
        waiting = {f"{role} {order.attempt}": role for role in roles}
        until = time.monotonic() + _NEIGHBOURS_SECONDS
        while waiting:
            name, wire = self._listener.accept(shape.most_bytes, until - time.monotonic())
            if name in waiting:
                self._wires[waiting.pop(name)] = wire
            else:
                wire.close()

    def _stage(self, order: StageOrder) -> Stage | ArticleStage | None:
        """The stage, loaded now or before; None where that failed, which the driver is told."""
        # Where it stands in the chain, and how many stages that has, makes no other stage of it.
        lanes = replace(order.worker.lanes, stages=1)
        loop = LoopConfig(0, has_blocks=True, has_lm_head=False, blocks_follow=False)
        config = replace(order.worker, lanes=lanes, loop=loop)
        if self._loaded is not None and self._loaded[0] == config:
            stage = self._loaded[1]
            for group in range(config.lanes.decode_lanes):
                stage.drop(group)
        else:
            self._loaded = None
            return_freed_memory()
            try:
                stage = load_stage(self._local(config), self._tell_loaded)
            except GlmPlanError as error:
                self._tell(failed=str(error))
                return None
            self._loaded = config, stage
        self._tell(ready=True, rss_bytes=psutil.Process().memory_info().rss)
        return stage

    def _local(self, config: WorkerConfig) -> WorkerConfig:
        """With files where they are on this node."""
        head = config.lm_head_file
        return replace(
            config,
            block_files=tuple((n, self._cache.path(str(path))) for n, path in config.block_files),
            lm_head_file=None if head is None else self._cache.path(str(head)),
        )

    def _loop(self, order: StageOrder, shape: FrameShape, stage: Stage | ArticleStage) -> StageLoop:
        config, wires = order.worker, self._wires
        arrays = local_arrays(config.lanes, last=order.after is None)
        self._progress = config.lanes.progress(arrays.progress)[:, config.loop.number]
        inbox = HiddenInlet(wires["driver" if order.first else "before"], shape, arrays)
        after = HiddenOutlet(wires["after"], shape, arrays) if order.after else None
        replies = ReplyOutlet(
            wires["driver"], shape, arrays, inbox, has_logits=config.loop.has_lm_head
        )
        return StageLoop(config.loop, config.lanes, stage, replies, inbox, after, arrays)

    def _tell_loaded(self, loaded: Loaded) -> None:
        self._tell(loaded=loaded.part, rss_bytes=loaded.rss_bytes)

    def _tell(self, **words: Any) -> None:
        self._wires["driver"].send(bare(json.dumps(words).encode()))


def release() -> str:
    """The version of glm-plan in this process."""
    try:
        return version("glm-plan")
    except PackageNotFoundError:
        return "unknown"
