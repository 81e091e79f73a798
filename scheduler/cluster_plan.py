"""ClusterPlan: the document of a model's placement over several hosts, and what it predicts."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from scheduler.plan import Document, Provenance, RamBudget, Stage

CLUSTER_PLAN_SCHEMA: Final = "glm-plan/cluster-plan/1"

WireDtype = Literal["fp32", "fp16"]


class Hop(Document):
    """What passes from one stage to the next: hidden states, or logits back to the driver.

    Bytes and seconds of a decode step are for all slots, those of a prompt for
    `ClusterSpeed.prompt_tokens`.
    """

    to_host: str
    network: bool = Field(description="false: within a host, through its memory")
    carries: Literal["hidden", "logits"]
    dtype: WireDtype = Field(description="fp32 within a host, and for logits")
    step_bytes: int = Field(ge=0)
    step_seconds: float = Field(ge=0)
    prompt_bytes: int = Field(ge=0)
    prompt_seconds: float = Field(ge=0)
    provenance: Provenance = Field(description="of the link's rate and latency")


class ClusterStage(Stage):
    """A stage, its host, its predicted seconds, and the hop that follows it."""

    host: str
    step_seconds: float = Field(ge=0, description="one decode step of all slots, with lm_head")
    prompt_seconds: float = Field(ge=0, description="the whole prompt, with lm_head")
    speed_provenance: Provenance
    speed_source: str
    hop: Hop = Field(description="to the next stage; after the last one, to the driver")


class ReplicaSpeed(Document):
    """What one copy of the model does, predicted.

    `step_seconds` is from the driver through all stages and back, for all slots, whose groups take
    turns. `round_seconds` is the same with groups following each other through the stages:
    max(slowest, step / groups); it gives `pipelined_tokens_per_second`.
    """

    step_seconds: float = Field(gt=0)
    hop_seconds: float = Field(ge=0, description="of a step")
    slowest_seconds: float = Field(gt=0, description="the busiest stage or link, per step")
    slowest: str = Field(description="which: host/device, or host > host")
    round_seconds: float = Field(gt=0)
    decode_tokens_per_second: float = Field(gt=0, description="all slots, groups taking turns")
    pipelined_tokens_per_second: float = Field(gt=0, description="all slots, groups overlapping")
    time_to_first_token_seconds: float = Field(gt=0)
    prefill_tokens_per_second: float = Field(gt=0)
    bubble_share: float = Field(ge=0, le=1, description="of the stages' time, spent waiting")


class Replica(Document):
    """One copy of the whole model over hosts of its own; the last stage holds lm_head."""

    entry: Hop = Field(description="from the driver to the first stage")
    stages: list[ClusterStage] = Field(min_length=1, description="in execution order")
    speed: ReplicaSpeed

    @model_validator(mode="after")
    def _check_chain(self) -> Replica:
        expected = 0
        for stage in self.stages:
            if stage.blocks and stage.blocks[0] != expected:
                raise ValueError(
                    f"{stage.host}/{stage.device} starts at block {stage.blocks[0]}, expected"
                    f" {expected}"
                )
            expected += len(stage.blocks)
        if [stage.lm_head for stage in self.stages] != [False] * (len(self.stages) - 1) + [True]:
            raise ValueError("lm_head must be on the last stage and on no other")
        places = [(stage.host, stage.device) for stage in self.stages]
        if len(set(places)) != len(places):
            raise ValueError("a device appears twice among the stages of a replica")
        targets = [self.entry.to_host, *(stage.hop.to_host for stage in self.stages[:-1])]
        if targets != [stage.host for stage in self.stages]:
            raise ValueError("the hops do not lead from stage to stage")
        return self

    @property
    def blocks(self) -> int:
        """Blocks of all stages together."""
        return sum(len(stage.blocks) for stage in self.stages)


class HostBudget(Document):
    """A host that the plan uses, where to find it, and its RAM over all its processes."""

    name: str
    address: str | None = None
    ram: RamBudget


class ClusterSpeed(Document):
    """What all replicas do together; `provenance` is of the least certain constants in it."""

    tokens_per_second: float = Field(
        gt=0, description="all slots of all replicas; throughput: with groups overlapping"
    )
    tokens_per_second_per_slot: float = Field(gt=0, description="of the slowest replica")
    time_to_first_token_seconds: float = Field(gt=0, description="of the slowest replica")
    prompt_tokens: int = Field(ge=1)
    bubble_share: float = Field(ge=0, le=1)
    provenance: Provenance


class ClusterPlan(Document):
    """Where every part of a model lives in a cluster; the JSON of this class is a contract.

    Each replica holds the whole model on hosts that no other replica uses. Raises pydantic's
    ValidationError when stages, hosts and counts contradict each other.
    """

    schema_: Literal["glm-plan/cluster-plan/1"] = Field(CLUSTER_PLAN_SCHEMA, alias="schema")
    model: str
    blocks: int = Field(ge=1)
    objective: Literal["latency", "throughput"]
    wire: WireDtype = Field(description="of hidden states between hosts")
    driver_host: str = Field(description="with tokenizer, embedding and sampler")
    context_tokens: int = Field(ge=1)
    slots: int = Field(ge=1, description="requests at once in each replica")
    replicas: list[Replica] = Field(min_length=1)
    hosts: list[HostBudget] = Field(description="the driver's host first")
    embedding_bytes: int = Field(ge=0, description="bf16 file on the driver's disk, memory-mapped")
    speed: ClusterSpeed
    decision: dict[str, Any] = Field(description="how the placement was found")
    notes: list[str] = Field(default=[])
    warnings: list[str] = Field(default=[])
    command: str | None = Field(default=None, description="the command that makes this plan")
    explanation: list[str] = Field(default=[], description="filled by --explain")

    @model_validator(mode="after")
    def _check_replicas(self) -> ClusterPlan:
        listed = [host.name for host in self.hosts]
        used: set[str] = set()
        for number, replica in enumerate(self.replicas):
            if replica.blocks != self.blocks:
                raise ValueError(f"replica {number} holds {replica.blocks} blocks of {self.blocks}")
            own = {stage.host for stage in replica.stages}
            if own & used:
                raise ValueError(f"{min(own & used)} appears in two replicas")
            used |= own
        if len(set(listed)) != len(listed) or set(listed) != used | {self.driver_host}:
            raise ValueError("hosts must list the driver's host and those of all stages once each")
        return self
