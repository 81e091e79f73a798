"""What a service and its engine's process say to each other over one pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from runtime.bundle import Bundle
from runtime.launch import StageLaunch
from runtime.logits import TokenLogprobs
from runtime.pipeline import StepTime
from runtime.placement import Placement
from runtime.sampling import Sampling
from runtime.stream import FinishReason

if TYPE_CHECKING:
    from runtime.cluster.start import ClusterStart


@dataclass(frozen=True)
class EngineConfig:
    """What an engine's process is started with; plain data, since it travels there."""

    bundle: Bundle
    launches: list[StageLaunch]
    context_tokens: int
    slots: int
    log_level: int  # of the service
    start: ClusterStart | None = None  # on the hosts of a cluster


@dataclass(frozen=True)
class Ask:
    """To the engine: answer this; `replayed_ids` are tokens of the answer that are known."""

    number: int
    prompt_ids: Sequence[int]
    sampling: Sampling
    max_new_tokens: int
    replayed_ids: Sequence[int]


@dataclass(frozen=True)
class Cancel:
    """To the engine: nobody waits for this answer any more."""

    number: int


@dataclass(frozen=True)
class Forget:
    """To the engine: give back the memory of prompts that are kept."""


@dataclass(frozen=True)
class Ping:
    """To the engine: say how you are."""


@dataclass(frozen=True)
class Close:
    """To the engine: end."""


@dataclass(frozen=True)
class Born:
    """From the engine, first of all: what the names of its shared memory begin with."""

    memory_family: str


@dataclass(frozen=True)
class PartLoaded:
    """From the engine, while it loads: a part is in memory; bytes of that worker by now."""

    stage: int
    rss_bytes: int


@dataclass(frozen=True)
class EngineReady:
    """From the engine: everything is loaded; resident bytes and process ids by stage."""

    rss_bytes: tuple[int, ...]
    process_ids: tuple[int, ...]


@dataclass(frozen=True)
class Pong:
    """From the engine: it turns. Process ids, bytes and restarts are by stage.

    Processes of other machines have no ids here, and their memory is `resident_bytes`, which is
    empty where ids are known. `paused` says why answers wait for a stage that is started again;
    None where they do not.
    """

    process_ids: tuple[int, ...]
    resident_bytes: tuple[int, ...]
    stage_restarts: tuple[int, ...]
    paused: str | None


@dataclass(frozen=True)
class Moved:
    """From the engine on a cluster: its stages have been placed anew."""

    placement: Placement


@dataclass(frozen=True)
class Logged:
    """From the engine: a record for the service's log, with what it says beside its sentence."""

    logger: str
    level: int
    text: str
    fields: dict[str, object]


@dataclass(frozen=True)
class Broken:
    """From the engine: it cannot go on, or not begin.

    The rest is as in EngineError. `fewer_blocks`: less on that device may help.
    """

    reason: str
    device: str | None
    blocks: str | None
    cause: str | None
    fewer_blocks: bool


class News(NamedTuple):
    """From the engine, about one answer since the last time; seconds."""

    number: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    decode: list[StepTime]
    prefill: StepTime | None
    reused_tokens: int
    queued_seconds: float
    sampler_seconds: float
    end: FinishReason | None
    error: str | None


class Steps(NamedTuple):
    """From the engine: what all answers got since the last time."""

    news: list[News]


ToEngine = Ask | Cancel | Forget | Ping | Close
FromEngine = Born | PartLoaded | EngineReady | Pong | Moved | Logged | Broken | Steps
