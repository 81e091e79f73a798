"""The model that a server answers with: its plan, its engine, and what all routes ask of both."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Literal

import psutil

from runtime.bundle import Bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.chat_format import ChatFormat, CompletionFormat, chat_format_of
from runtime.engine_messages import EngineConfig
from runtime.json_tokenizer import JsonTokenizer
from runtime.lasting_engine import LastingEngine
from runtime.launch import StageLaunch
from runtime.launch_here import launches_here
from runtime.pipeline import StepTime
from runtime.service.admission import Admission
from runtime.service.errors import ApiError
from scheduler.errors import EngineError, GlmPlanError, PlanError
from scheduler.fewer_blocks import one_block_fewer
from scheduler.plan import Plan, Stage

if TYPE_CHECKING:
    from runtime.cluster.start import ClusterStart

State = Literal["loading", "ready", "degraded", "restarting", "failed"]


class ServedModel:
    """A planned bundle and its engine, which runs once `lasting.start` was called.

    `plan` and `launches` are those in force: a device that fails, or a host of a cluster that is
    lost, loses blocks, and `degraded` says so.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        launches: list[StageLaunch],
        queue: int,
        start: ClusterStart | None = None,
    ) -> None:
        self._start = start  # on the hosts of a cluster
        self._plan = plan  # of the engine's start, as are its launches
        self.bundle = bundle
        self._launches = launches
        self.created = int(time.time())
        self.last_step: StepTime | None = None  # of the newest token of any answer
        self._moved: list[str] = []
        self.chat_format: ChatFormat = chat_format_of(bundle)
        self.completion_format = self._completion_format()
        self.lasting = LastingEngine(self._engine_config(), self._fewer_blocks)
        self.admission = Admission(self.slots, queue)

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        placement = self.lasting.placement
        return (placement and placement.plan) or self._plan

    @property
    def launches(self) -> list[StageLaunch]:
        """In the order of step times and restarts; devices that were lost have no blocks."""
        placement = self.lasting.placement
        return self._launches if placement is None else list(placement.launches)

    @property
    def moved(self) -> list[str]:
        """What left its device, and why."""
        placement = self.lasting.placement
        return self._moved if placement is None else [*self._moved, *placement.degraded]

    def running(self) -> list[tuple[Stage, StageLaunch, int]]:
        """Stages of the plan in force as they run, with their resident bytes."""
        launches = {one.device: one for one in self.launches}
        resident = dict(zip(launches, self.resident_bytes(), strict=False))
        return [
            (stage, launches[stage.device], resident.get(stage.device, 0))
            for stage in self.plan.stages
            if stage.device in launches  # else the stages are moving right now
        ]

    @property
    def state(self) -> State:
        """Whether answers can be had: ready or degraded; else why not."""
        state = self.lasting.state
        if state == "ready" and self.lasting.paused:
            return "restarting"
        return "degraded" if state == "ready" and self.moved else state

    @property
    def fault(self) -> GlmPlanError | None:
        """Why it is not ready, where something failed."""
        paused = self.lasting.paused
        return self.lasting.fault or (EngineError(paused) if paused else None)

    @property
    def all_parts(self) -> int:
        """Blocks and lm_head."""
        return sum(len(one.block_files) + bool(one.lm_head_file) for one in self.launches)

    @property
    def loaded_parts(self) -> int:
        """Those that are in memory by now."""
        return min(self.lasting.loaded_parts, self.all_parts)

    @property
    def slots(self) -> int:
        """Answers that run at once."""
        return 1 if self.greedy_only else self._plan.slots

    @property
    def greedy_only(self) -> bool:
        """Whether the model's last graph returns token ids instead of logits."""
        return self.bundle.layout == "article"

    @property
    def context_tokens(self) -> int:
        """Tokens of prompt and answer together."""
        return min(self._plan.context_tokens, self.bundle.manifest.geometry.max_context)

    @property
    def fingerprint(self) -> str:
        """A name for all that an answer depends on beside its request."""
        manifest = self.bundle.manifest
        stages = [
            (one.backend, one.block_span)
            for one in self.launches
            if one.block_files or one.lm_head_file
        ]
        precisions = [(one.precision, one.lm_head_precision) for one in self.plan.stages]
        identity = f"{manifest.model} {manifest.source_sha256} {stages} {precisions}"
        return f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    @property
    def degraded(self) -> list[str]:
        """What does not run as planned."""
        fallen = [
            f"{one.device}: {one.fallback}"
            for one in self.launches
            if one.fallback and (one.block_files or one.lm_head_file)
        ]
        return [*fallen, *self.moved]

    def engine(self) -> LastingEngine:
        """The engine, which may be pausing; raises ApiError 503 while it loads, and once it failed.

        "Failed" is several deaths in a row; it goes on trying, so that a later request may succeed.
        """
        if self.lasting.state == "loading":
            raise ApiError(
                503,
                f"{self.plan.model} is loading: {self.loaded_parts} of {self.all_parts} parts.",
                code="loading",
                headers={"Retry-After": "1"},
            )
        if self.lasting.state == "failed":
            raise ApiError(
                503,
                f"the model is gone: {self.fault}",
                code="engine_failed",
                headers={"Retry-After": "10"},
            )
        return self.lasting

    def resident_bytes(self) -> list[int]:
        """Resident memory of each worker, measured now; while loading, when its last part came."""
        lasting = self.lasting
        try:
            resident = [psutil.Process(one).memory_info().rss for one in lasting.worker_ids]
        except psutil.Error:
            resident = []  # a worker ended just now
        return resident if len(resident) == len(self.launches) else list(lasting.rss_bytes)

    def close(self, *, at_once: bool = False) -> None:
        """End the engine; what still runs ends as cancelled."""
        self.lasting.close(at_once=at_once)

    def _engine_config(self) -> EngineConfig:
        level = logging.getLogger().getEffectiveLevel()
        context = self._plan.context_tokens
        return EngineConfig(self.bundle, self._launches, context, self.slots, level, self._start)

    def _fewer_blocks(self, device: str, reason: str) -> EngineConfig:
        """Plan again with a block fewer on a device; PlanError where that is impossible."""
        if self._start is not None:
            raise PlanError("the stages of a cluster are placed anew by their own pipeline.")
        spec = spec_of_bundle(self.bundle)
        threads = max(launch.threads for launch in self._launches)
        plan = one_block_fewer(self._plan, spec, device, reason, threads)
        launches = launches_here(plan, spec, self.bundle)
        self._moved.append(plan.warnings[-1])
        self._plan, self._launches = plan, launches
        return self._engine_config()

    def _completion_format(self) -> ChatFormat:
        """How a bare text becomes a prompt: for ChatGLM as its only question."""
        tokenizer = self.chat_format.tokenizer
        if not isinstance(tokenizer, JsonTokenizer):
            return self.chat_format
        described = self.bundle.manifest.tokenizer
        return CompletionFormat(tokenizer, described.bos or "" if described.add_bos else "")
