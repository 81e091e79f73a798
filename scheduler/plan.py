"""Plan: the document that every other part reads: a placement, its memory, its provenance."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    computed_field,
    model_validator,
)

from scheduler.model import LARGEST
from scheduler.wording import show_value

PLAN_SCHEMA: Final = "glm-plan/plan/1"

Precision = Literal["fp32", "fp16", "int8", "int4"]
Provenance = Literal["measured", "calibrated", "estimated", "given"]


class Document(BaseModel):
    """What every part of a plan is: frozen, without unknown fields, named in JSON by aliases."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        serialize_by_alias=True,
        ser_json_inf_nan="strings",
    )


class StageMemory(Document):
    """Bytes that a stage holds on its device, itemised.

    The JSON also states `total_bytes`; a document where it is not the sum of the items is refused.
    """

    weights_bytes: int = Field(ge=0, description="blocks of this stage, as this device keeps them")
    lm_head_bytes: int = Field(ge=0, default=0)
    kv_cache_bytes: int = Field(
        ge=0,
        default=0,
        description="capacity x rows for these blocks, and a copy to continue prompts",
    )
    workspace_bytes: int = Field(
        ge=0, default=0, description="prefill, a growing cache, logits, copies while loading"
    )
    runtime_bytes: int = Field(ge=0, default=0, description="device context and libraries")
    provenance: Provenance = Field(default="estimated", description="of all items together")

    @computed_field  # type: ignore[prop-decorator]
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

    @model_validator(mode="wrap")
    @classmethod
    def _check_stated_total(
        cls, data: Any, handler: ModelWrapValidatorHandler[StageMemory]
    ) -> StageMemory:
        if not isinstance(data, dict) or "total_bytes" not in data:
            return handler(data)
        stated = data["total_bytes"]
        memory = handler({key: value for key, value in data.items() if key != "total_bytes"})
        if stated != memory.total_bytes:
            raise ValueError(
                f"total_bytes is {show_value(stated)} but the items sum to {memory.total_bytes}"
            )
        return memory


class Stage(Document):
    """A contiguous run of parts on one device, with its own runtime manager and process."""

    device: str = Field(
        description="gpu0, gpu1, ... or cpu; host/cpu where several hosts run one model",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62}/)?(cpu|gpu[0-9]+)$",
    )
    backend: str = Field(description="engine and device kind: mnn:cpu, mnn:cuda, ...")
    precision: Precision = Field(description="of the weights as the bundle stores them")
    first_block: int | None = Field(
        default=None, ge=0, lt=LARGEST["blocks"], description="null: no blocks, lm_head only"
    )
    last_block: int | None = Field(
        default=None, ge=0, lt=LARGEST["blocks"], description="inclusive"
    )
    lm_head: bool = Field(default=False, description="this stage also holds lm_head")
    lm_head_precision: Precision | None = None
    memory: StageMemory
    host_bytes: int = Field(
        default=0,
        ge=0,
        description="RAM that a GPU stage's process holds beside the device's memory",
    )
    free_bytes: int | None = Field(default=None, description="memory of the device when planned")
    free_provenance: Provenance | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether a processor runs this stage."""
        return self.device.rpartition("/")[2] == "cpu"

    @property
    def blocks(self) -> range:
        """Block numbers of this stage, possibly empty."""
        if self.first_block is None or self.last_block is None:
            return range(0)
        return range(self.first_block, self.last_block + 1)

    @model_validator(mode="after")
    def _check_blocks(self) -> Stage:
        if (self.first_block is None) != (self.last_block is None):
            raise ValueError("first_block and last_block must both be numbers or both be null")
        if self.first_block is not None and not self.blocks:
            raise ValueError(f"last_block {self.last_block} lies before {self.first_block}")
        if self.first_block is None and not self.lm_head:
            raise ValueError("a stage without blocks must hold lm_head")
        if self.lm_head != (self.lm_head_precision is not None):
            raise ValueError("lm_head_precision must be given exactly where lm_head is true")
        return self


class RamBudget(Document):
    """RAM of the host: every CPU stage, every stage's process, and the process that drives them."""

    needed_bytes: int = Field(ge=0)
    driver_bytes: int = Field(
        ge=0, description="of which: the process with tokenizer and sampler, and shared memory"
    )
    available_bytes: int | None = Field(default=None, ge=0)
    available_provenance: Provenance | None = None
    provenance: Provenance = Field(default="estimated", description="of the needed bytes")


class StageSpeed(Document):
    """Predicted seconds of one stage without lm_head and hops, and the constants' origin."""

    device: str
    decode_seconds: float = Field(ge=0, description="all blocks of this stage, one decode step")
    prefill_seconds: float = Field(ge=0, description="all blocks of this stage, the whole prompt")
    provenance: Provenance = Field(description="of the device's constants")
    source: str = Field(description="where the device's constants come from")


class PlanSpeed(Document):
    """What a plan will do, predicted from constants of its devices; see docs/numbers.md.

    One decode step gives one token to each of the plan's slots. Stages take turns.
    """

    context_tokens: int = Field(ge=1, description="tokens behind each slot when it decodes")
    slots: int = Field(ge=1)
    decode_tokens_per_second: float = Field(gt=0, description="all slots together")
    decode_tokens_per_second_per_slot: float = Field(gt=0)
    prompt_tokens: int = Field(ge=1, description="length of the prompt that prefill is stated for")
    prefill_tokens_per_second: float = Field(gt=0)
    time_to_first_token_seconds: float = Field(gt=0)
    step_seconds: float = Field(gt=0, description="one decode step: stages, lm_head and hops")
    lm_head_seconds: float = Field(ge=0, description="of a decode step")
    hop_seconds: float = Field(ge=0, description="of a decode step")
    slowest_stage_seconds: float = Field(ge=0, description="with lm_head; bounds a full pipeline")
    stages: list[StageSpeed] = Field(description="in execution order, as the plan's stages")
    provenance: Provenance = Field(description="of the least certain constants among these")


class Plan(Document):
    """Where every part of a model lives; the JSON of this class is a contract.

    Stages are in execution order; their blocks cover 0..n-1 once. The embedding is read from disk
    by the parent process. `verification` is null until something measured the plan. Raises
    pydantic's ValidationError when stages and counts contradict each other.
    """

    schema_: Literal["glm-plan/plan/1"] = Field(PLAN_SCHEMA, alias="schema")
    model: str
    policy: str
    gpu_blocks: int = Field(ge=0)
    cpu_blocks: int = Field(ge=0)
    stages: list[Stage]
    ram: RamBudget
    embedding_bytes: int = Field(ge=0, description="bf16 file on disk, memory-mapped")
    context_tokens: int = Field(ge=1)
    slots: int = Field(ge=1)
    decision: dict[str, Any] = Field(description="the policy's formula with its numbers")
    notes: list[str] = []
    warnings: list[str] = []
    command: str | None = Field(default=None, description="the command that runs this plan")
    speed: PlanSpeed | None = None
    explanation: list[str] = Field(default=[], description="filled by --explain")
    verification: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_stages(self) -> Plan:
        expected = 0
        on_gpus = 0
        for stage in self.stages:
            for block in stage.blocks[:1]:
                if block != expected:
                    problem = "leave a gap" if block > expected else "overlap"
                    raise ValueError(
                        f"the stages {problem}: {stage.device} starts at block {block},"
                        f" expected {expected}"
                    )
            expected += len(stage.blocks)
            on_gpus += 0 if stage.on_cpu else len(stage.blocks)
        if (self.gpu_blocks, self.cpu_blocks) != (on_gpus, expected - on_gpus):
            raise ValueError(
                f"gpu_blocks {self.gpu_blocks} and cpu_blocks {self.cpu_blocks} disagree with the"
                f" stages, which hold {on_gpus} and {expected - on_gpus}"
            )
        devices = [stage.device for stage in self.stages]
        if len(set(devices)) != len(devices):
            raise ValueError(f"a device appears twice among the stages: {', '.join(devices)}")
        heads = sum(stage.lm_head for stage in self.stages)
        if heads != 1:
            raise ValueError(f"{heads} stages hold lm_head, expected exactly one")
        return self
