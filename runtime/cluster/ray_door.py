"""The only door to Ray: importing it, joining a cluster, and actors that stay on one node."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from scheduler.errors import EngineError, UserInputError

NAMESPACE = "glm-plan"
ACTOR_PREFIX = "glm-plan stage "
HOST_LABEL = "glm-plan/host"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class ClusterNode:
    """One machine of a running Ray cluster, as Ray knows it.

    `name` is unique among those that are alive: the label glm-plan/host, or the node's own name,
    with the start of its id behind it where two are called alike.
    """

    node_id: str
    name: str
    address: str
    cpus: float
    gpus: float
    memory_bytes: int | None  # what Ray may give to actors; None: not limited


def load_ray() -> Any:
    """The module `ray`, with its usage reports off; UserInputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray hides all GPUs from processes that ask for none; stages choose theirs themselves.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserInputError(
            "running on a cluster needs the cluster extra (ray is missing); install it on every"
            " host with `pip install 'glm-plan[cluster]'`."
        ) from None
    return ray


def join(address: str) -> Any:
    """Join the Ray cluster at an address (``auto``: the one of this machine); the module `ray`.

    Raises UserInputError where none can be reached.
    """
    ray = load_ray()
    if not ray.is_initialized():
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserInputError(
                f"there is no Ray cluster at {address} ({first_line(error)}); start one with `ray"
                " start --head` and `ray start --address HEAD:6379` on the other hosts, or name its"
                " address."
            ) from None
    return ray


def nodes() -> list[ClusterNode]:
    """The machines of the cluster that are alive, in the order of their names."""
    alive = [one for one in load_ray().nodes() if one["Alive"]]
    plain = [_plain_name(one) for one in alive]
    found = []
    for node, name in zip(alive, plain, strict=True):
        resources = node["Resources"]
        unique = name if plain.count(name) == 1 else f"{name}-{node['NodeID'][:6]}"
        memory = resources.get("memory")
        found.append(
            ClusterNode(
                node["NodeID"],
                unique,
                node["NodeManagerAddress"],
                float(resources.get("CPU", 0.0)),
                float(resources.get("GPU", 0.0)),
                None if memory is None else int(memory),
            )
        )
    return sorted(found, key=lambda one: one.name)


def _plain_name(node: dict[str, Any]) -> str:
    own = node["NodeName"]
    if own == node["NodeManagerAddress"]:  # what Ray takes where nobody chose a name
        own = node["NodeManagerHostname"]
    return str(node.get("Labels", {}).get(HOST_LABEL) or own)


def on_node(node: ClusterNode) -> Any:
    """The scheduling strategy of what must run on this node and nowhere else."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)


def answer(reference: Any, what: str, seconds: float = _START_SECONDS) -> Any:
    """The value of a call to an actor or task; EngineError, beginning with `what`, if it fails."""
    ray = load_ray()
    try:
        return ray.get(reference, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        raise EngineError(
            f"{what} did not answer within {seconds:.0f} s; see whether its host has the CPUs free"
            " that the plan asks for (`ray status`)."
        ) from None
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if hasattr(error, "cause") else error
        raise EngineError(f"{what} failed: {first_line(cause)}.") from None
    except ray.exceptions.RayError as error:
        raise EngineError(f"{what} is lost ({first_line(error)}).") from None


def first_line(error: BaseException) -> str:
    """What an error says first, without its full stop."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
