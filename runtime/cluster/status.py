"""What runs on a cluster now, as its stages say: hosts, blocks, bytes, speed, hops."""

from __future__ import annotations

import contextlib
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.cluster.ray_door import ACTOR_PREFIX, NAMESPACE, answer, join, nodes
from scheduler.errors import EngineError

STATUS_SCHEMA: Final = "glm-plan/cluster-status/1"
_SECONDS = 5.0


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class HostStatus(_Document):
    """A host of the cluster that is alive."""

    name: str
    address: str
    cpus: float = Field(description="that Ray may give to stages")
    gpus: float


class RunningStage(_Document):
    """A stage as its process describes itself; bytes and messages since it joined its run."""

    stage: int
    host: str
    device: str
    backend: str
    blocks: str = Field(description="0-4, or none")
    lm_head: bool
    pid: int
    rss_bytes: int = Field(description="resident memory of its process, measured")
    fetched_bytes: int = Field(description="of its files, sent to its host for it")
    messages: int
    received_bytes: int
    sent_bytes: int


class RunStatus(_Document):
    """One model that runs; speed as its driver measured it in the last seconds."""

    run: str
    model: str
    stages: list[RunningStage]
    missing_stages: list[int] = Field(description="that do not answer")
    tokens_per_second: float | None = None
    hop_seconds: float | None = Field(
        default=None, description="of a decode step: all that was neither a stage nor lm_head"
    )
    degraded: list[str] = []


class ClusterStatus(_Document):
    """Hosts and runs of one Ray cluster."""

    schema_: Literal["glm-plan/cluster-status/1"] = Field(STATUS_SCHEMA, alias="schema")
    address: str
    hosts: list[HostStatus]
    runs: list[RunStatus]


def cluster_status(address: str) -> ClusterStatus:
    """Ask the cluster at an address; UserInputError where there is none."""
    ray = join(address)
    names = [
        one["name"]
        for one in ray.util.list_named_actors(all_namespaces=True)
        if one["namespace"] == NAMESPACE and one["name"].startswith(ACTOR_PREFIX)
    ]
    asked = []
    for name in names:
        with contextlib.suppress(ValueError):  # it has ended since
            asked.append(ray.get_actor(name, namespace=NAMESPACE).status.remote())
    found: list[dict[str, Any]] = []
    for reference in asked:
        with contextlib.suppress(EngineError):
            found.append(answer(reference, "a stage", _SECONDS))
    return ClusterStatus(
        address=str(ray.get_runtime_context().gcs_address),
        hosts=[
            HostStatus(name=one.name, address=one.address, cpus=one.cpus, gpus=one.gpus)
            for one in nodes()
        ],
        runs=[
            run_status(run, [one for one in found if one.get("run") == run])
            for run in sorted({one["run"] for one in found if "run" in one})
        ],
    )


def run_status(run: str, stages: list[dict[str, Any]]) -> RunStatus:
    """One run from what its stages say of themselves, of which there is one at least."""
    fields = set(RunningStage.model_fields)
    known = [RunningStage.model_validate({name: one[name] for name in fields}) for one in stages]
    known.sort(key=lambda one: one.stage)
    newest = max((one["reported"] for one in stages), key=lambda one: one.get("at", 0.0))
    expected = max(one["stages"] for one in stages)
    present = {one.stage for one in known}
    return RunStatus(
        run=run,
        model=str(stages[0]["model"]),
        stages=known,
        missing_stages=[number for number in range(expected) if number not in present],
        tokens_per_second=newest.get("tokens_per_second"),
        hop_seconds=newest.get("hop_seconds"),
        degraded=newest.get("degraded", []),
    )
