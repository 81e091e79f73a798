"""The measured results of `glm-plan bench`, as the JSON document that runs are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler.errors import UserInputError
from scheduler.strict_json import read_strict_json, validation_sentence

BENCH_SCHEMA = "glm-plan/bench/1"
_BYTES_LIMIT = 16 << 20


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="strings"
    )


class Figure(_Document):
    """The median of all runs, and their range over it."""

    median: float
    spread: float = Field(ge=0, description="(largest - smallest) / median")


class StageFigure(_Document):
    """One stage: computing, in a decode step and in a prompt; memory after all runs."""

    device: str
    backend: str
    blocks: str
    decode_ms: Figure
    prefill_ms: Figure


class Case(_Document):
    """So many requests at once, each with a prompt and an answer of these lengths in tokens.

    `decode_tokens_per_second` counts all requests, while all of them run.
    """

    prompt_tokens: int
    output_tokens: int
    requests: int
    runs: int
    time_to_first_token_seconds: Figure
    prefill_tokens_per_second: Figure
    decode_tokens_per_second: Figure
    step_ms: Figure
    stages: list[StageFigure]
    lm_head_ms: Figure
    hop_ms: Figure
    sampler_ms: Figure
    read_gbps: Figure = Field(description="weights and cache read per second of a decode step")

    @property
    def key(self) -> tuple[int, int, int]:
        """What makes two cases comparable."""
        return self.prompt_tokens, self.output_tokens, self.requests


class Bench(_Document):
    """Everything that a run of `glm-plan bench` measured."""

    schema_: Literal["glm-plan/bench/1"] = Field(default="glm-plan/bench/1", alias="schema")
    made: str
    provenance: Literal["measured"] = "measured"
    model: str
    processor: str
    threads: int
    slots: int
    context_tokens: int
    load_seconds: float
    ram_gbps: Figure = Field(description="memory read by all threads, NumPy's maximum of integers")
    rss_bytes: dict[str, int] = Field(description="of each process after all runs")
    cases: list[Case]


def read_bench(path: Path) -> Bench:
    """The document in a file; UserInputError when it is not one."""
    try:
        document = read_strict_json(path, _BYTES_LIMIT)
        return Bench.model_validate(document)
    except ValidationError as error:
        raise UserInputError(
            f"{path} is not a result of glm-plan bench --json: {validation_sentence(error)}."
        ) from error
    except ValueError as error:
        raise UserInputError(
            f"{path} {error}; expected a result of glm-plan bench --json."
        ) from error
