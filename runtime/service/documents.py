"""JSON documents about the server, its model and its plan, and about the tokens of a text."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.service.requests import Text
from runtime.service.served_model import State
from scheduler.plan import Plan


class Model(BaseModel):
    """A model as OpenAI's API lists it; ``context_tokens`` and ``slots`` are this server's."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "glm-plan"
    context_tokens: int
    slots: int


class ModelList(BaseModel):
    """The models of this server: one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Pressure(BaseModel):
    """Memory is short: slots that take new answers, and the cause as a sentence."""

    usable_slots: int
    slots: int
    reason: str
    applied: bool = Field(description="false where the server was told not to back off")


class Health(BaseModel):
    """Whether answers can be had: when ``ready``, or ``degraded``, with blocks off their device.

    ``degraded`` names what does not run as planned, ``fault`` why there are no answers.
    """

    status: State
    loaded_parts: int
    all_parts: int
    fault: str | None = None
    degraded: list[str] = []
    pressure: Pressure | None = None


class StageStatus(BaseModel):
    """A stage as planned and as it runs; bytes."""

    device: str
    backend: str
    asked_backend: str
    blocks: str
    first_block: int | None
    last_block: int | None
    lm_head: bool
    planned_bytes: int = Field(description="estimated")
    actual_bytes: int = Field(description="resident memory of the worker, measured")


class StepSeconds(BaseModel):
    """Where the time of one decode step went; measured seconds, stages in order."""

    stages: list[float]
    lm_head: float
    hops: float
    total: float


class Status(BaseModel):
    """What happens now."""

    model: str
    health: Health
    context_tokens: int
    slots: int
    slots_busy: int
    slots_usable: int = Field(description="fewer than slots while memory is short")
    queue_limit: int
    queue_waiting: int
    stages: list[StageStatus]
    last_step: StepSeconds | None = Field(description="of the newest token of any answer")


class LoadedMemory(BaseModel):
    """A memory after loading; ``deviation`` says where more is held than was planned; bytes."""

    device: str = Field(description="ram, or a GPU")
    planned_bytes: int = Field(description="with every slot in use, estimated")
    loaded_bytes: int = Field(description="held after loading, measured")
    deviation: str | None


class PlanInForce(BaseModel):
    """The plan by which this server runs now, and what became of it.

    ``degraded`` names what does not run as it was planned first.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["glm-plan/plan-in-force/1"] = Field(
        default="glm-plan/plan-in-force/1", alias="schema"
    )
    plan: Plan
    stages: list[StageStatus]
    memory: list[LoadedMemory] = Field(description="empty until the model is loaded")
    degraded: list[str] = []


class TokenizeRequest(BaseModel):
    """A text without any chat format."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content: Text
    model: str | None = None


class Tokens(BaseModel):
    """Token ids of a text."""

    tokens: list[int]


class DetokenizeRequest(BaseModel):
    """Token ids to print."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: list[int] = Field(max_length=1 << 20)
    model: str | None = None


class Content(BaseModel):
    """The text of token ids; markup prints nothing."""

    content: str
