"""Workers chained: hidden states go in, pass every stage in order, and logits come out."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import numpy as np

from runtime.backends.protocol import FloatArray
from runtime.geometry import Geometry
from runtime.launch import StageLaunch
from runtime.shared_array import SharedArray
from runtime.stage import Step
from runtime.worker import Done, Failed, Forward, LmHead, Loaded, Ready, WorkerConfig, worker_main
from scheduler.errors import EngineError

ProgressCallback = Callable[[StageLaunch, Loaded], None]
_EXIT_SECONDS = 5.0


@dataclass(frozen=True)
class StepTime:
    """Measured seconds of one forward through all stages."""

    stage_seconds: tuple[float, ...]  # computing, by stage
    lm_head_seconds: float
    total_seconds: float  # as the parent saw it

    @property
    def hop_seconds(self) -> float:
        """What was neither a stage nor lm_head: crossing processes, copying hidden states."""
        return self.total_seconds - sum(self.stage_seconds) - self.lm_head_seconds


class Pipeline:
    """Owns one worker process per stage and the shared memory between them.

    Workers load in parallel; the constructor returns when all are ready. `max_rows` x `max_tokens`
    bounds a forward. Raises EngineError when a worker cannot load or dies; the message says which
    device and why.
    """

    def __init__(
        self,
        launches: list[StageLaunch],
        geometry: Geometry,
        max_rows: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self.launches = launches
        self.rss_bytes: list[int] = []
        self._geometry = geometry
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        hidden = max_rows * max_tokens * geometry.hidden_size
        # boundaries[i] enters stage i; the last one holds the final hidden states.
        self._boundaries = [SharedArray.create(hidden) for _ in range(len(launches) + 1)]
        self._logits = SharedArray.create(max_rows * geometry.vocab_size)
        try:
            context = multiprocessing.get_context("spawn")
            for number, launch in enumerate(launches):
                self._workers.append(self._start(context, number, launch, max_tokens))
            self._await_ready(on_progress)
        except BaseException:
            self.close()
            raise

    def _start(
        self,
        context: multiprocessing.context.SpawnContext,
        number: int,
        launch: StageLaunch,
        max_tokens: int,
    ) -> tuple[SpawnProcess, Connection]:
        geometry = self._geometry
        config = WorkerConfig(
            backend=launch.backend,
            cuda_device=launch.cuda_device,
            threads=launch.threads,
            kv_heads=geometry.kv_heads,
            head_dim=geometry.head_dim,
            rotary=geometry.turning,
            hidden_size=geometry.hidden_size,
            vocab_size=geometry.vocab_size,
            max_positions=max_tokens + 1,
            block_files=launch.block_files,
            lm_head_file=launch.lm_head_file,
            layout=launch.layout,
            input_name=self._boundaries[number].name,
            output_name=self._boundaries[number + 1].name,
            final_name=self._boundaries[-1].name,
            logits_name=self._logits.name,
        )
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker_main,
            args=(config, theirs),
            name=f"glm-plan {launch.device} {launch.backend}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return process, ours

    def _await_ready(self, on_progress: ProgressCallback | None) -> None:
        waiting = dict(enumerate(self._workers))
        rss_bytes: dict[int, int] = {}
        while waiting:
            wait(
                [
                    handle
                    for process, control in waiting.values()
                    for handle in (control, process.sentinel)
                ]
            )
            for number, (_, control) in list(waiting.items()):
                if not control.poll() and self._workers[number][0].is_alive():
                    continue
                message = self._receive(number)
                if isinstance(message, Ready):
                    rss_bytes[number] = message.rss_bytes
                    del waiting[number]
                elif isinstance(message, Loaded) and on_progress is not None:
                    on_progress(self.launches[number], message)
        self.rss_bytes = [rss_bytes[number] for number in range(len(self._workers))]

    @property
    def process_ids(self) -> list[int]:
        """Operating system ids of the workers, in the order of the stages."""
        return [process.pid for process, _ in self._workers if process.pid is not None]

    def forward(self, hidden: FloatArray, step: Step) -> tuple[FloatArray, StepTime]:
        """Run all blocks over hidden [rows, tokens, hidden_size]; return logits [rows, vocab_size].

        The logits are a copy of each row's last position.
        """
        started = time.perf_counter()
        rows, tokens = hidden.shape[:2]
        self._boundaries[0].view(*hidden.shape)[...] = hidden
        seconds = []
        for number, launch in enumerate(self.launches):
            if launch.block_files:
                seconds.append(self._command(number, Forward(step)))
            else:  # a stage that holds lm_head only: hidden states pass it by
                source = self._boundaries[number].view(*hidden.shape)
                self._boundaries[number + 1].view(*hidden.shape)[...] = source
                seconds.append(0.0)
        head_stage = next(n for n, launch in enumerate(self.launches) if launch.lm_head_file)
        head_seconds = self._command(head_stage, LmHead(rows, tokens))
        logits = np.array(self._logits.view(rows, self._geometry.vocab_size))
        return logits, StepTime(tuple(seconds), head_seconds, time.perf_counter() - started)

    def _command(self, number: int, command: Forward | LmHead) -> float:
        process, control = self._workers[number]
        try:
            control.send(command)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death(number) from None
        wait([control, process.sentinel])
        answer = self._receive(number)
        assert isinstance(answer, Done)
        return answer.seconds

    def _receive(self, number: int) -> Loaded | Ready | Done:
        """The next message of this worker; its failure or death becomes an EngineError."""
        control = self._workers[number][1]
        try:
            message = control.recv()
        except (EOFError, ConnectionResetError):
            raise self._death(number) from None
        if isinstance(message, Failed):
            launch = self.launches[number]
            raise EngineError(f"{launch.device} ({launch.backend}): {message.reason}")
        assert isinstance(message, (Loaded, Ready, Done))
        return message

    def _death(self, number: int) -> EngineError:
        process = self._workers[number][0]
        process.join(_EXIT_SECONDS)
        code = process.exitcode
        cause = f"exit code {code}"
        if code is not None and code < 0:
            cause = f"signal {signal.Signals(-code).name}"
        launch = self.launches[number]
        return EngineError(
            f"the worker of {launch.device} ({launch.backend}, blocks {launch.block_span}) died"
            f" with {cause}; if its memory ran out, plan fewer blocks for that device."
        )

    def close(self) -> None:
        """End the workers and remove the shared memory; safe to call twice."""
        for _, control in self._workers:
            control.close()  # a worker ends when its pipe does
        for process, _ in self._workers:
            process.join(_EXIT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers = []
        for array in [*self._boundaries, self._logits]:
            with contextlib.suppress(FileNotFoundError):
                array.close()
        self._boundaries = []
