"""A chain again after a loss: which nodes are there, what each computes now, how it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from runtime.cluster.actors import StageActor, end_actor
from runtime.cluster.placed import PlacedModel
from runtime.cluster.ray_door import ClusterNode, answer, load_ray, nodes, on_node
from runtime.cluster.running_chain import ChainOrder, RunningChain, start_chain
from scheduler.errors import EngineError, GlmPlanError
from scheduler.plan import Plan

Replan = Callable[[Sequence[ClusterNode]], PlacedModel]
"""Places a model on these nodes; raises PlanError where they cannot hold it."""

_MOST_ATTEMPTS = 5
_ANSWER_SECONDS = 10.0  # a node that starts no process within this time counts as lost
_PAUSE_SECONDS = 1.0
_log = logging.getLogger(__name__)


def present_nodes() -> list[ClusterNode]:
    """The nodes on which a process can be started now, whatever Ray believes."""
    ray = load_ray()
    known = nodes()
    here = ray.remote(_here)
    asked = [here.options(num_cpus=0, scheduling_strategy=on_node(one)).remote() for one in known]
    until = time.monotonic() + _ANSWER_SECONDS
    return [
        node
        for node, reference in zip(known, asked, strict=True)
        if _answers(reference, max(0.0, until - time.monotonic()))
    ]


def recover(
    order: ChainOrder, replan: Replan, actors: Sequence[StageActor]
) -> tuple[RunningChain, Plan | None]:
    """Start the chain again on the nodes that are there, keeping what is loaded where it fits.

    Raises EngineError after several attempts, and at once where the nodes cannot hold the model.
    """
    kept = list(actors)
    error: GlmPlanError = EngineError("nothing was tried.")
    for attempt in range(_MOST_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        present = present_nodes()
        try:
            placed = replan(present)
        except GlmPlanError as refusal:
            for actor in kept:
                end_actor(actor.handle)
            names = ", ".join(node.name for node in present) or "no host"
            raise EngineError(f"{names} cannot take over what is lost: {refusal}") from None
        try:
            return start_chain(order, placed.stages, kept), placed.plan
        except EngineError as failure:
            _log.warning("attempt %d of %d: %s", attempt + 1, _MOST_ATTEMPTS, failure)
            error, kept = failure, []  # a chain that does not start has ended its actors
    raise EngineError(f"the stages did not start again in {_MOST_ATTEMPTS} attempts: {error}")


def _here() -> bool:
    return True


def _answers(reference: object, seconds: float) -> bool:
    try:
        return bool(answer(reference, "a node", seconds))
    except EngineError:
        return False
