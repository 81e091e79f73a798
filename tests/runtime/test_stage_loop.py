"""A stage's loop between real pipes and shared memory, over a stage that only counts."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
import pytest

from runtime.backends.protocol import FloatArray
from runtime.lanes import PASSED, LaneShape
from runtime.shared_array import SharedArray
from runtime.stage_loop import LoopArrays, LoopConfig, StageLoop
from runtime.step_inputs import Row
from runtime.step_message import Kind, Reply, Status, StepMessage
from scheduler.errors import EngineError

LANES = LaneShape(decode_lanes=1, most_tokens=8, hidden_size=4, vocab_size=6, stages=1)
BLOCKS = 5


@dataclass
class CountingStage:
    """Adds one to hidden states; `gate` opens a prompt's blocks one by one."""

    gate: threading.Semaphore
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    log: list[str] = field(default_factory=list)
    fail: bool = False

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        self.log.append(f"arrange {rows}x{capacity}")

    def grow(self, group: int, rows: int, capacity: int) -> None:
        self.log.append(f"grow to {rows}x{capacity}")

    def settle(self) -> None:
        """Nothing was put off."""

    def drop(self, group: int) -> None:
        self.log.append("drop")

    def decode(
        self, group: int, rows: Sequence[Row | None], capacity: int, hidden: FloatArray
    ) -> FloatArray:
        if self.fail:
            raise EngineError("it is too hot.")
        self.log.append("decode")
        return np.asarray(hidden + 1)

    def prefill(
        self, group: int, number: int, row: Row, hidden: FloatArray
    ) -> Generator[None, None, FloatArray]:
        for block in range(BLOCKS):
            self.entered.release()
            assert self.gate.acquire(timeout=30)
            self.log.append(f"block {block}")
            yield
        return np.asarray(hidden + 1)

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        return np.repeat(hidden[:, :1], LANES.vocab_size, 1)


@dataclass
class Rig:
    """The parent's side of one stage."""

    stage: CountingStage
    control: Connection
    boundary: SharedArray
    logits: SharedArray
    progress: SharedArray

    def send(self, message: StepMessage) -> None:
        self.control.send_bytes(message.pack())

    def mark(self, lane: int) -> float:
        return float(LANES.progress(self.progress)[lane, 0])

    def reply(self) -> Reply:
        assert self.control.poll(30)
        return Reply.unpack(self.control.recv_bytes())


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    arrays = [
        SharedArray.create(size)
        for size in (
            LANES.boundary_numbers,
            LANES.boundary_numbers,
            LANES.logits_numbers,
            LANES.times_numbers,
            LANES.progress_numbers,
        )
    ]
    names = [array.name for array in arrays]
    ours, theirs = Pipe()
    stage = CountingStage(threading.Semaphore(0))
    input_name, final_name, *others = names
    config = LoopConfig(0, True, True, False, input_name, final_name, final_name, *others)
    config = replace(config, awaits_reset=getattr(request, "param", False))
    shared = LoopArrays.attached(config)
    loop = StageLoop(config, LANES, stage, theirs, theirs, None, shared)  # type: ignore[arg-type]

    def serve() -> None:
        with pytest.raises(EOFError):
            loop.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    yield Rig(stage, ours, arrays[0], arrays[2], arrays[4])
    ours.close()
    thread.join(30)
    for array in arrays:
        array.close()


def prompt(sequence: int) -> StepMessage:
    rows = (Row(0, 1, 0), None)
    return StepMessage(
        Kind.PREFILL, sequence, 0, LANES.prefill_lane, 64, 3, 0, sources=(0, 1), rows=rows
    )


def decode(sequence: int) -> StepMessage:
    return StepMessage(Kind.DECODE, sequence, 0, 0, 64, sources=(0, 1), rows=(None, Row(5)))


def test_decode_steps_pass_between_the_blocks_of_a_prompt(rig: Rig) -> None:
    LANES.hidden(rig.boundary, LANES.prefill_lane, 3)[...] = [[1] * 4, [2] * 4, [7] * 4]
    LANES.hidden(rig.boundary, 0, 2)[...] = 3
    rig.send(prompt(1))
    for sequence in (2, 3):
        assert rig.stage.entered.acquire(timeout=30)
        rig.send(decode(sequence))
        rig.stage.gate.release()
        assert rig.reply() == Reply(Status.DONE, sequence)
        assert LANES.logits(rig.logits, 0, 2).tolist() == [[4.0] * 6] * 2
    for _ in range(BLOCKS - 2):
        rig.stage.gate.release()
    assert rig.reply() == Reply(Status.DONE, 1)
    assert LANES.logits(rig.logits, LANES.prefill_lane, 1).tolist() == [[8.0] * 6]
    steps = [line for line in rig.stage.log if "2x64" not in line]
    assert steps == ["block 0", "decode", "block 1", "decode", "block 2", "block 3", "block 4"]


def test_an_aborted_prompt_stops_at_its_next_block(rig: Rig) -> None:
    rig.send(prompt(1))
    assert rig.stage.entered.acquire(timeout=30)
    rig.send(StepMessage(Kind.ABORT, 1))
    rig.stage.gate.release()
    assert rig.reply() == Reply(Status.ABORTED, 1)
    rig.send(decode(2))
    assert rig.reply() == Reply(Status.DONE, 2)
    assert rig.stage.log == ["grow to 2x64", "block 0", "arrange 2x64", "decode"]


def test_a_failed_step_is_a_sentence_and_the_next_one_runs(rig: Rig) -> None:
    rig.stage.fail = True
    rig.send(decode(1))
    assert rig.reply() == Reply(Status.FAILED, 1, "it is too hot.")
    rig.stage.fail = False
    rig.send(StepMessage(Kind.DROP, 2))
    rig.send(decode(3))
    assert rig.reply() == Reply(Status.DONE, 3)
    assert rig.stage.log == ["arrange 2x64", "drop", "arrange 2x64", "decode"]


def reset(sequence: int) -> StepMessage:
    return StepMessage(Kind.RESET, sequence, lane=LANES.reset_lane)


@pytest.mark.parametrize("rig", [True], indirect=True)
def test_a_worker_that_came_later_waits_for_the_reset(rig: Rig) -> None:
    rig.send(decode(1))
    rig.send(prompt(2))
    rig.send(StepMessage(Kind.DROP, 3))
    rig.send(reset(4))
    rig.send(decode(5))
    assert rig.reply() == Reply(Status.DONE, 4)
    assert rig.reply() == Reply(Status.DONE, 5)
    assert rig.stage.log == ["drop", "arrange 2x64", "decode"]


def test_a_reset_stops_a_prompt_and_drops_every_cache(rig: Rig) -> None:
    rig.send(prompt(1))
    assert rig.stage.entered.acquire(timeout=30)
    rig.send(reset(2))
    rig.stage.gate.release()
    assert rig.reply() == Reply(Status.DONE, 2)
    rig.send(decode(3))
    assert rig.reply() == Reply(Status.DONE, 3)
    assert rig.stage.log == ["grow to 2x64", "block 0", "drop", "arrange 2x64", "decode"]


def test_a_prompt_makes_progress_with_every_block(rig: Rig) -> None:
    rig.send(prompt(1))
    seen = []
    for _ in range(BLOCKS):
        assert rig.stage.entered.acquire(timeout=30)
        seen.append(rig.mark(LANES.prefill_lane))
        rig.stage.gate.release()
    assert rig.reply() == Reply(Status.DONE, 1)
    assert seen == [1.0 + block for block in range(BLOCKS)]
    assert rig.mark(LANES.prefill_lane) == PASSED
    rig.send(decode(2))
    assert rig.reply() == Reply(Status.DONE, 2)
    assert rig.mark(0) == PASSED
