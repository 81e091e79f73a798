"""Plan: the document that every other part reads; a placement, its memory, and where each number came from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PLAN_SCHEMA = "glm-plan/plan/1"

Precision = Literal["fp32", "fp16", "int8", "int4"]
Provenance = Literal["measured", "calibrated", "estimated", "given"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class StageMemory(_Document):
    """Bytes that a stage holds on its device, itemised; weights as the device will really keep them."""

    weights_bytes: int = Field(ge=0, description="blocks of this stage")
    lm_head_bytes: int = Field(ge=0, default=0)
    kv_cache_bytes: int = Field(ge=0, default=0, description="context x slots for these blocks")
    workspace_bytes: int = Field(ge=0, default=0, description="prefill activations and logits")
    runtime_bytes: int = Field(ge=0, default=0, description="device context and libraries")

    @property
    def total_bytes(self) -> int:
        """Sum of all items, in bytes."""
        return (
            self.weights_bytes
            + self.lm_head_bytes
            + self.kv_cache_bytes
            + self.workspace_bytes
            + self.runtime_bytes
        )


class Stage(_Document):
    """A contiguous run of parts on one device, with its own runtime manager and process."""

    device: str = Field(description="gpu0, gpu1, ... or cpu")
    backend: str = Field(description="engine and device kind: mnn:cpu, mnn:cuda, ...")
    precision: Precision = Field(description="of the weights as this device keeps them")
    first_block: int | None = Field(default=None, ge=0, description="null: no blocks, lm_head only")
    last_block: int | None = Field(default=None, ge=0, description="inclusive")
    lm_head: bool = Field(default=False, description="this stage also holds lm_head")
    lm_head_precision: Precision | None = None
    memory: StageMemory
    free_bytes: int | None = Field(default=None, description="memory of the device when planned")
    free_provenance: Provenance | None = None

    @property
    def blocks(self) -> range:
        """Block numbers of this stage, possibly empty."""
        if self.first_block is None or self.last_block is None:
            return range(0)
        return range(self.first_block, self.last_block + 1)


class Plan(_Document):
    """Where every part of a model lives; the JSON of this class is a contract.

    Stages are in execution order; their blocks cover 0..n-1 once. The embedding is read from disk by the parent
    process. `speed` and `verification` are null until something predicted or measured them.
    """

    schema_: Literal["glm-plan/plan/1"] = Field(default=PLAN_SCHEMA, alias="schema")
    model: str
    policy: str
    gpu_blocks: int = Field(ge=0)
    cpu_blocks: int = Field(ge=0)
    stages: list[Stage]
    embedding_bytes: int = Field(ge=0, description="bf16 file on disk, memory-mapped")
    context_tokens: int = Field(ge=1)
    slots: int = Field(ge=1)
    decision: dict[str, Any] = Field(description="the policy's formula with its numbers")
    notes: list[str] = []
    warnings: list[str] = []
    command: str | None = Field(default=None, description="the command that runs this plan")
    speed: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
