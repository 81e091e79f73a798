"""The actors of a run: one per stage on its node, with the bundle's files that it needs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.cluster.part_cache import bundle_key
from runtime.cluster.placed import PlacedStage, files_of
from runtime.cluster.ray_door import ACTOR_PREFIX, answer, load_ray, on_node
from runtime.cluster.stage_host import Address, StageHost, release
from runtime.manifest import BundleFile
from scheduler.errors import EngineError

CHUNK_BYTES = 4 << 20
_CHUNKS_UNDER_WAY = 2  # of one stage: with CHUNK_BYTES, what the object store has to hold
_CALLS_AT_ONCE = 4  # serve, which lasts, and status beside it
_FILE_SECONDS = 600.0
_ALIVE_SECONDS = 5.0


@dataclass(frozen=True)
class StageActor:
    """A running actor, where it listens, and how many bytes were sent to its node for it."""

    placed: PlacedStage
    handle: Any
    address: Address
    fetched_bytes: int
    started: float  # by the driver's clock


def start_actors(
    run: str,
    placed: list[PlacedStage],
    bundle: Bundle,
    secret: bytes,
    kept: Sequence[StageActor] = (),
    *,
    shared: bool,
) -> list[StageActor]:
    """Start an actor for each stage and bring it its files; all nodes at once.

    Of `kept`, actors on the right nodes with the right blocks are used again, and the others end.
    `shared`: files at the bundle's own path are used in place on nodes that see them there. Raises
    EngineError where a node does not start one, BundleError where a file arrives damaged.
    """
    old = {one.placed: one for one in kept if _lives(one)}
    handles: list[Any] = []
    try:
        for one in kept:
            if one.placed not in old or one.placed not in placed:
                end_actor(one.handle)
        for number, stage in enumerate(placed):
            name = f"{ACTOR_PREFIX}{run} {number} {time.time_ns()}"
            known = old.get(stage)
            handles.append(known.handle if known else _create(name, stage, bundle, secret, shared))
        with ThreadPoolExecutor(len(placed)) as pool:
            supplied = pool.map(_supply, placed, handles, repeat(bundle))
            return [old.get(stage, actor) for stage, actor in zip(placed, supplied, strict=True)]
    except BaseException:
        for handle in handles:
            end_actor(handle)
        raise


def _lives(actor: StageActor) -> bool:
    try:
        answer(actor.handle.status.remote(), "a stage", _ALIVE_SECONDS)
    except EngineError:
        return False
    return True


def _create(name: str, placed: PlacedStage, bundle: Bundle, secret: bytes, shared: bool) -> Any:
    launch, node = placed.launch, placed.node
    remote = load_ray().remote(StageHost)
    options = remote.options(
        name=name,
        num_cpus=min(launch.threads, node.cpus),
        max_restarts=0,  # the pipeline starts another one, and replays what was lost with this one
        max_concurrency=_CALLS_AT_ONCE,
        scheduling_strategy=on_node(node),
    )
    path = bundle.path.resolve() if shared else None
    return options.remote(node.address, secret, bundle_key(bundle.manifest), path)


def _supply(placed: PlacedStage, handle: Any, bundle: Bundle) -> StageActor:
    what = f"the stage of {placed.place}"
    address, version = answer(handle.where.remote(), what)
    if version != release():
        raise EngineError(
            f"{placed.node.name} has glm-plan {version} and this machine {release()}; install the"
            " same on all hosts."
        )
    files = files_of(placed, bundle)
    missing = answer(handle.missing.remote(files), what, _FILE_SECONDS)
    for file in missing:
        _send(handle, bundle.file(file), file, what)
    fetched_bytes = sum(file.size_bytes for file in missing)
    return StageActor(placed, handle, address, fetched_bytes, time.monotonic())


def _send(handle: Any, path: Path, file: BundleFile, what: str) -> None:
    """One file through Ray's object store, in pieces, of which few are under way at a time."""
    under_way: deque[Any] = deque()
    with path.open("rb") as stream:
        offset = 0
        while piece := stream.read(CHUNK_BYTES):
            under_way.append(handle.write.remote(file, offset, piece))
            offset += len(piece)
            if len(under_way) >= _CHUNKS_UNDER_WAY:
                answer(under_way.popleft(), what, _FILE_SECONDS)
    for one in under_way:
        answer(one, what, _FILE_SECONDS)
    answer(handle.finish.remote(file), what, _FILE_SECONDS)


def end_hung(actor: StageActor, process_id: int | None) -> None:
    """End an actor that may be unable to end itself, as Ray asks actors to, by killing its process.

    `process_id` is what it said of itself; None where it never did.
    """
    end_actor(actor.handle)
    if process_id is None:
        return
    kill = load_ray().remote(_kill)
    options = kill.options(num_cpus=0, scheduling_strategy=on_node(actor.placed.node))
    with contextlib.suppress(EngineError):  # then its host hangs too, which recovery finds out
        answer(options.remote(process_id), "a node", _ALIVE_SECONDS)


def _kill(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, getattr(signal, "SIGKILL", signal.SIGTERM))


def end_actor(handle: Any) -> None:
    """End an actor, if it is still there."""
    ray = load_ray()
    if ray.is_initialized():
        ray.kill(handle)
