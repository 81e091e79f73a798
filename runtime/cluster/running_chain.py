"""A chain of stages that runs: its actors, the wires to them, and why one of them ended."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from socket import socket
from typing import Any

from runtime.bundle import Bundle
from runtime.chain import loop_config, worker_config
from runtime.cluster.actors import StageActor, end_actor, start_actors
from runtime.cluster.frames import FrameShape, WireDtype, split
from runtime.cluster.placed import PlacedStage, relative_launch
from runtime.cluster.ray_door import answer, first_line, load_ray
from runtime.cluster.stage_host import StageOrder
from runtime.cluster.wire import Wire, connect
from runtime.lanes import LaneShape
from runtime.pipeline import ProgressCallback
from runtime.worker import Loaded
from scheduler.errors import EngineError

_CAUSE_SECONDS = 2.0
_STATUS_SECONDS = 2.0


@dataclass(frozen=True)
class ChainOrder:
    """What all chains of one run have in common; only their stages differ."""

    run: str
    bundle: Bundle
    secret: bytes
    dtype: WireDtype
    shared: bool  # whether the bundle's own folder may be read where nodes see it
    decode_lanes: int
    max_tokens: int

    def lanes(self, stages: int) -> LaneShape:
        """The lanes of a chain of so many stages."""
        geometry = self.bundle.manifest.geometry
        return LaneShape(
            self.decode_lanes,
            self.max_tokens,
            geometry.hidden_size,
            geometry.vocab_size,
            stages,
        )


@dataclass
class RunningChain:
    """Stages that are loaded and joined; made by `start_chain`."""

    placed: list[PlacedStage]
    shape: FrameShape
    actors: list[StageActor] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    served: list[Any] = field(default_factory=list)  # Ray's promises of why each stage ended
    rss_bytes: list[int] = field(default_factory=list)

    def sockets(self) -> list[socket]:
        """The driver's end of the wire to each stage."""
        return [wire.socket for wire in self.wires]

    def statuses(self) -> list[dict[str, Any]]:
        """What each stage says of itself now; empty for those that do not answer in time."""
        asked = [one.handle.status.remote() for one in self.actors]
        until = time.monotonic() + _STATUS_SECONDS
        return [_status(one, max(0.0, until - time.monotonic())) for one in asked]

    def failure(self, number: int, reason: str) -> EngineError:
        """What to say where a stage says itself what went wrong."""
        launch = self.placed[number].launch
        return EngineError(f"{launch.device} ({launch.backend}): {reason}")

    def loss(self, noticed: int, how: str) -> EngineError:
        """What to say when a wire has ended: Ray knows of dead actors, wires of lost hosts."""
        ray = load_ray()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(self.served, num_returns=len(self.served), timeout=_CAUSE_SECONDS)
        ends = [_end(one) for one in self.served]
        number, cause = next(((n, end) for n, end in enumerate(ends) if end), (noticed, how))
        return self.lost(number, cause)

    def lost(self, number: int, cause: str) -> EngineError:
        """What to say of a stage that is lost."""
        launch = self.placed[number].launch
        return EngineError(
            f"the stage of {launch.device} ({launch.backend}, blocks {launch.block_span}) is lost:"
            f" {cause}."
        )

    def disconnect(self) -> None:
        """Close all wires: the stages' loops end, and wait to be told to serve again."""
        for wire in self.wires:
            wire.close()
        self.wires = []

    def close(self) -> None:
        """End the stages and their actors."""
        self.disconnect()
        for actor in self.actors:
            end_actor(actor.handle)
        self.actors = []


def start_chain(
    order: ChainOrder,
    placed: list[PlacedStage],
    kept: Sequence[StageActor] = (),
    on_progress: ProgressCallback | None = None,
) -> RunningChain:
    """Start stages on their nodes, join them and wait until all are loaded.

    Of `kept`, which no chain uses any more, those that have the right blocks already stay, and all
    others end. Raises EngineError where a stage cannot be had.
    """
    chain = RunningChain(placed, FrameShape(order.lanes(len(placed)), order.dtype))
    try:
        chain.actors = start_actors(
            order.run, placed, order.bundle, order.secret, kept, shared=order.shared
        )
        attempt = time.time_ns()
        _tell(chain, order, attempt)
        for number, actor in enumerate(chain.actors):
            try:
                wire = connect(
                    actor.address.host,
                    actor.address.port,
                    order.secret,
                    f"driver {attempt}",
                    chain.shape.most_bytes,
                )
            except (OSError, EOFError) as error:
                raise chain.loss(number, str(error)) from None
            chain.wires.append(wire)
        _await_ready(chain, on_progress)
    except BaseException:
        chain.close()
        raise
    return chain


def _tell(chain: RunningChain, order: ChainOrder, attempt: int) -> None:
    """Tell every stage its place; it then joins its neighbours and loads."""
    launches = [one.launch for one in chain.placed]
    behind = [one.address for one in chain.actors[1:]] + [None]
    for number, (actor, after) in enumerate(zip(chain.actors, behind, strict=True)):
        launch = relative_launch(launches[number], order.bundle)
        geometry = order.bundle.manifest.geometry
        loop = loop_config(launches, number)
        stage_order = StageOrder(
            worker=worker_config(launch, geometry, chain.shape.lanes, loop),
            dtype=order.dtype,
            attempt=attempt,
            first=number == 0,
            after=after,
            about={
                "run": order.run,
                "model": order.bundle.manifest.model,
                "stage": number,
                "stages": len(launches),
                "host": chain.placed[number].node.name,
                "device": launch.device,
                "backend": launch.backend,
                "blocks": launch.block_span,
                "lm_head": launch.lm_head_file is not None,
                "fetched_bytes": actor.fetched_bytes,
            },
        )
        chain.served.append(actor.handle.serve.remote(stage_order))


def _await_ready(chain: RunningChain, on_progress: ProgressCallback | None) -> None:
    waiting = dict(enumerate(chain.wires))
    rss_bytes: dict[int, int] = {}
    while waiting:
        ready = wait([wire.socket for wire in waiting.values()])
        for number, wire in list(waiting.items()):
            if wire.socket not in ready:
                continue
            words = _words(chain, number, wire)
            if "failed" in words:
                raise chain.failure(number, words["failed"])
            if "ready" in words:
                rss_bytes[number] = words["rss_bytes"]
                del waiting[number]
            elif on_progress is not None:
                loaded = Loaded(words["loaded"], words["rss_bytes"])
                on_progress(chain.placed[number].launch, loaded)
    chain.rss_bytes = [rss_bytes[number] for number in range(len(chain.wires))]


def _words(chain: RunningChain, number: int, wire: Wire) -> dict[str, Any]:
    try:
        words: dict[str, Any] = json.loads(split(wire.receive())[0])
    except (EOFError, OSError) as error:
        raise chain.loss(number, str(error)) from None
    return words


def _status(reference: Any, seconds: float) -> dict[str, Any]:
    try:
        found: dict[str, Any] = answer(reference, "a stage", seconds)
    except EngineError:
        return {}
    return found


def _end(served: Any) -> str | None:
    """Why an actor is no more, in Ray's words; None for one that is there, or ended as told."""
    ray = load_ray()
    try:
        ray.get(served, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return None
    except ray.exceptions.RayError as error:
        return first_line(error)
    return None
