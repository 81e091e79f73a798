"""The model that a server answers with: loading, ready or failed, and what all routes ask of it."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import psutil

from runtime.bundle import Bundle
from runtime.chat_format import ChatFormat, CompletionFormat, chat_format_of
from runtime.engine import Engine
from runtime.json_tokenizer import JsonTokenizer
from runtime.launch import StageLaunch
from runtime.pipeline import ProgressCallback, StepTime
from runtime.service.admission import Admission
from runtime.service.errors import ApiError
from runtime.service.log_lines import fault_fields, fields
from runtime.worker import Loaded
from scheduler.errors import EngineError, GlmPlanError
from scheduler.plan import Plan

_log = logging.getLogger(__name__)
_MOST_RELOADS = 3
State = Literal["loading", "ready", "failed"]


class ServedModel:
    """A planned bundle and, once `load` has run, its engine; `fault` says why there is none."""

    def __init__(self, plan: Plan, bundle: Bundle, launches: list[StageLaunch], queue: int) -> None:
        self.plan = plan
        self.bundle = bundle
        self.launches = launches
        self.state: State = "loading"
        self.fault: GlmPlanError | None = None
        self.created = int(time.time())
        self.loaded_parts = 0
        self.all_parts = sum(len(one.block_files) + bool(one.lm_head_file) for one in launches)
        self.rss_bytes = [0] * len(launches)
        self.last_step: StepTime | None = None  # of the newest token of any answer
        self.chat_format: ChatFormat = chat_format_of(bundle)
        self.completion_format = self._completion_format()
        self.admission = Admission(self.slots, queue)
        self.executor = ThreadPoolExecutor(self.slots, thread_name_prefix="answer")
        self.fingerprint = f"fp_{hashlib.sha256(self._identity().encode()).hexdigest()[:12]}"
        self._engine: Engine | None = None
        self._reloads = 0
        self._changing = threading.Lock()

    @property
    def slots(self) -> int:
        """Answers that run at once."""
        return 1 if self.greedy_only else self.plan.slots

    @property
    def greedy_only(self) -> bool:
        """Whether the model's last graph returns token ids instead of logits."""
        return self.bundle.layout == "article"

    @property
    def context_tokens(self) -> int:
        """Tokens of prompt and answer together."""
        return min(self.plan.context_tokens, self.bundle.manifest.geometry.max_context)

    def load(self) -> None:
        """Start the workers; blocks until they are ready. A failure is kept in `fault`."""
        try:
            self._engine = Engine(
                self.bundle,
                self.launches,
                self.plan.context_tokens,
                self._on_progress(),
                slots=self.slots,
            )
        except GlmPlanError as error:
            self.fault = error
            self.state = "failed"
        else:
            self.rss_bytes = list(self._engine.pipeline.rss_bytes)
            self.loaded_parts = self.all_parts
            self.fault = None
            self.state = "ready"

    def fail(self, engine: Engine, error: GlmPlanError) -> bool:
        """Remember that this engine is gone; True for the first one to say so of the present one.

        That one must call `reload`.
        """
        if engine is not self._engine or self.state != "ready":
            return False
        _log.error("%s", error, extra=fault_fields(error))
        self.fault = error
        self.state = "failed"
        return True

    def reload(self) -> None:
        """Start the workers anew after a failure, a few times in the life of a server."""
        with self._changing:
            if self._engine is None or self._reloads == _MOST_RELOADS:
                return
            self._reloads += 1
            _log.warning("the engine starts anew", extra=fields(restart=self._reloads))
            self._engine.close()
            self._engine = None
            self.loaded_parts = 0
            self.state = "loading"
            self.load()

    def engine(self) -> Engine:
        """The engine; raises ApiError 503 while there is none."""
        if self.state == "loading":
            raise ApiError(
                503,
                f"{self.plan.model} is loading: {self.loaded_parts} of {self.all_parts} parts.",
                code="loading",
                headers={"Retry-After": "1"},
            )
        if self._engine is None or self.state == "failed":
            raise ApiError(503, f"the model is gone: {self.fault}", code="engine_failed")
        return self._engine

    def resident_bytes(self) -> list[int]:
        """Resident memory of each worker, measured now; while loading, when its last part came."""
        engine = self._engine
        if engine is None or self.state != "ready":
            return list(self.rss_bytes)
        try:
            ids = engine.pipeline.process_ids
            resident = [psutil.Process(one).memory_info().rss for one in ids]
        except psutil.Error:
            resident = []  # a worker ended just now
        return resident if len(resident) == len(self.launches) else list(self.rss_bytes)

    def close(self) -> None:
        """End the workers; what still runs ends as cancelled."""
        with self._changing:
            if self._engine is not None:
                self._engine.close()
                self._engine = None
            self.executor.shutdown(wait=True, cancel_futures=True)
            if self.state == "ready":
                self.state, self.fault = "failed", EngineError("the server is ending.")

    def _on_progress(self) -> ProgressCallback:
        numbers = {launch.device: number for number, launch in enumerate(self.launches)}

        def advance(launch: StageLaunch, loaded: Loaded) -> None:
            self.loaded_parts += 1
            self.rss_bytes[numbers[launch.device]] = loaded.rss_bytes

        return advance

    def _completion_format(self) -> ChatFormat:
        """How a bare text becomes a prompt: for ChatGLM as its only question."""
        tokenizer = self.chat_format.tokenizer
        if not isinstance(tokenizer, JsonTokenizer):
            return self.chat_format
        described = self.bundle.manifest.tokenizer
        return CompletionFormat(tokenizer, described.bos or "" if described.add_bos else "")

    def _identity(self) -> str:
        """What an answer depends on beside its request."""
        manifest = self.bundle.manifest
        stages = [(one.backend, one.block_span) for one in self.launches]
        precisions = [(one.precision, one.lm_head_precision) for one in self.plan.stages]
        return f"{manifest.model} {manifest.source_sha256} {stages} {precisions}"
