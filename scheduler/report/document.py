"""Report: the document behind every format; its JSON is a contract (`glm-plan/report/1`)."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from scheduler.cell import Cell, Verdict
from scheduler.inverse import Buy, Most
from scheduler.plan import Plan, Precision, Provenance

REPORT_SCHEMA: Final = "glm-plan/report/1"

Axis = Literal["vram", "context", "slots"]


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        serialize_by_alias=True,
        ser_json_inf_nan="strings",
    )


class ModelFacts(_Document):
    """A model's geometry in the numbers that the report leans on; sizes in bytes, estimated."""

    name: str
    parameters: int
    blocks: int
    max_context: int
    kv_bytes_per_token: int = Field(description="all blocks, at fp32")
    embedding_bytes: int = Field(description="bf16 file on disk, memory-mapped")


class GpuFacts(_Document):
    """A GPU of a machine: free memory (null: unknown), effective bandwidth, and their origin."""

    name: str
    free_bytes: int | None
    free_provenance: Provenance
    bandwidth_bytes_per_second: float
    speed_provenance: Provenance
    speed_source: str


class MachineFacts(_Document):
    """A machine that the report is about; its name is how cells refer to it."""

    name: str
    gpus: list[GpuFacts]
    cpu: str
    cpu_bandwidth_bytes_per_second: float
    cpu_speed_provenance: Provenance
    cpu_speed_source: str
    ram_available_bytes: int
    ram_total_bytes: int
    ram_provenance: Provenance


class Setting(_Document):
    """Which model, machine and precisions a drawing or an answer is for."""

    model: str
    machine: str
    gpu_precision: Precision
    cpu_precision: Precision
    context_tokens: int
    slots: int


class PlanOf(_Document):
    """The whole plan of one setting, for its layer map and memory items."""

    setting: Setting
    plan: Plan


class Point(_Document):
    """A point of a curve: `x` in bytes, tokens or slots; seconds null where it does not run."""

    x: int
    verdict: Verdict
    gpu_blocks: int
    step_seconds: float | None
    tokens_per_second: float | None = Field(description="all slots together")


class Curve(_Document):
    """One setting with one of its numbers varied; the others stay as the setting says."""

    setting: Setting
    against: Axis
    speed_provenance: Provenance = Field(description="of the least certain point")
    points: list[Point]


class More(_Document):
    """What a bigger first card would bring."""

    more_bytes: int
    cell: Cell


class Answers(_Document):
    """The inverse answers of one setting; null where a question has no answer."""

    setting: Setting
    now: Cell
    largest_context: Most
    most_slots: Most
    vram_for_all_blocks_bytes: int
    vram_with_lm_head_bytes: int
    without_gpu: Cell
    cheapest: Buy | None = Field(description="null: no target, or no listed card reaches it")
    more_vram: list[More]


class Source(_Document):
    """A number that the report rests on, and where it comes from."""

    what: str
    provenance: Provenance
    source: str


class Report(_Document):
    """Everything a report shows; all formats are made from this alone."""

    schema_: Literal["glm-plan/report/1"] = Field(REPORT_SCHEMA, alias="schema")
    version: str = Field(description="of glm-plan")
    date: str = Field(description="ISO 8601, when memory was measured and the report made")
    command: str = Field(description="the command that makes this report again")
    policy: str
    target_tokens_per_second: float | None
    models: list[ModelFacts]
    machines: list[MachineFacts]
    cells: list[Cell]
    plans: list[PlanOf]
    curves: list[Curve]
    answers: list[Answers]
    assumptions: list[str]
    sources: list[Source]
