"""Stages between real wires, over blocks that only count: what a driver sees of a chain of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends.protocol import FloatArray
from runtime.cluster import stage_host
from runtime.cluster.frames import FrameShape, bare, split
from runtime.cluster.stage_host import StageHost, StageOrder
from runtime.cluster.wire import Wire, connect
from runtime.lanes import LaneShape
from runtime.rotary import Rotary
from runtime.stage_loop import LoopConfig
from runtime.step_inputs import Row
from runtime.step_message import Kind, Reply, Status, StepMessage
from runtime.worker import WorkerConfig
from scheduler.errors import EngineError

LANES = LaneShape(decode_lanes=1, most_tokens=8, hidden_size=4, vocab_size=6, stages=2)
SECRET = b"s" * 32


@dataclass
class CountingStage:
    """Adds its number to hidden states; logits are ten times the first of them."""

    number: int
    fail: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    log: list[str] = field(default_factory=list)

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        self.log.append(f"arrange {rows}")

    def drop(self, group: int) -> None:
        self.log.append("drop")

    def grow(self, group: int, rows: int, capacity: int) -> None:
        self.log.append(f"arrange {rows}")

    def settle(self) -> None:
        self.log.append("settle")

    def decode(
        self, group: int, rows: Sequence[Row | None], capacity: int, hidden: FloatArray
    ) -> FloatArray:
        if self.fail:
            raise EngineError("it is too hot.")
        return np.asarray(hidden + self.number)

    def prefill(
        self, group: int, number: int, row: Row, hidden: FloatArray
    ) -> Generator[None, None, FloatArray]:
        yield
        assert self.gate.wait(30)
        yield
        return np.asarray(hidden + self.number)

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        return np.repeat(10 * hidden[:, :1], LANES.vocab_size, 1)


@dataclass
class Chain:
    """Two stages and the driver's ends of their wires."""

    stages: list[CountingStage]
    hosts: list[StageHost]
    shape: FrameShape
    head: int
    pool: ThreadPoolExecutor
    loads: list[str]
    attempt: int = 0
    wires: list[Wire] = field(default_factory=list)
    ends: list[Future[str]] = field(default_factory=list)

    def start(self) -> None:
        """Tell both stages to serve, and wait until they are ready."""
        self.attempt += 1
        addresses = [host.where()[0] for host in self.hosts]
        for number, host in enumerate(self.hosts):
            loop = LoopConfig(number, True, number == self.head, number == 0)
            config = WorkerConfig(
                f"mnn:{number}",
                None,
                1,
                False,
                False,
                1,
                4,
                Rotary("halves", 4),
                LANES,
                (),
                None,
                "glm-plan",
                loop,
            )
            after = addresses[1] if number == 0 else None
            order = StageOrder(
                config, self.shape.dtype, self.attempt, number == 0, after, {"stage": number}
            )
            self.ends.append(self.pool.submit(host.serve, order))
        for one in addresses:
            wire = connect(
                one.host, one.port, SECRET, f"driver {self.attempt}", self.shape.most_bytes
            )
            self.wires.append(wire)
        for wire in self.wires:
            assert "ready" in json.loads(split(wire.receive())[0])

    def send(self, message: StepMessage, hidden: Any = None) -> None:
        if hidden is None:
            self.wires[0].send(bare(message.pack()))
            return
        numbers = np.array(hidden, np.float32)
        self.wires[0].send(self.shape.with_hidden(message.pack(), np.zeros(3, np.float32), numbers))

    def reply(self, number: int) -> tuple[Reply, memoryview]:
        words, numbers = split(self.wires[number].receive())
        return Reply.unpack(words), numbers

    def stop(self) -> None:
        for wire in self.wires:
            wire.close()
        self.wires, self.ends = [], []


@pytest.fixture(params=["fp32", "fp16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1, 0], ids=["head behind", "head before"])
def chain(
    request: pytest.FixtureRequest, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Chain]:
    stages = [CountingStage(1), CountingStage(2)]
    loads: list[str] = []

    def load(config: WorkerConfig, tell: object) -> CountingStage:
        loads.append(config.backend)
        return stages[int(config.backend[-1])]

    monkeypatch.setattr(stage_host, "load_stage", load)
    monkeypatch.setenv("GLM_PLAN_DATA_DIR", str(tmp_path))
    hosts = [StageHost("127.0.0.1", SECRET, "key", None) for _ in stages]
    with ThreadPoolExecutor(2) as pool:
        shape = FrameShape(LANES, dtype)  # type: ignore[arg-type]
        made = Chain(stages, hosts, shape, request.param, pool, loads)
        made.start()
        yield made
        made.stop()


def decode(sequence: int) -> StepMessage:
    rows = (Row(3), Row(5))
    return StepMessage(Kind.DECODE, sequence, 0, 0, 64, sources=(0, 1), rows=rows)


def prompt(sequence: int) -> StepMessage:
    rows = (Row(0, 1, 0), None)
    return StepMessage(
        Kind.PREFILL, sequence, 0, LANES.prefill_lane, 64, 3, 0, sources=(0, 1), rows=rows
    )


def logits(chain: Chain, message: StepMessage) -> list[list[float]]:
    """The logits of a step, visiting lm_head where that is before the last blocks."""
    answers = chain.shape.answers(message)
    times = np.zeros(3, np.float32)
    reply, numbers = chain.reply(1)
    assert reply == Reply(Status.DONE, message.sequence)
    if chain.head == 0:
        hidden = np.zeros((answers, 4), np.float32)
        chain.shape.take(numbers, times, hidden)
        chain.wires[0].send(chain.shape.with_hidden(message.pack(Kind.LM_HEAD), times, hidden))
        reply, numbers = chain.reply(0)
        assert reply == Reply(Status.DONE, message.sequence)
    found = np.zeros((answers, 6), np.float32)
    chain.shape.take(numbers, times, found, exact=True)
    assert (times[:2] > 0).all()
    return found.tolist()


def test_hidden_states_pass_both_stages_and_become_logits(chain: Chain) -> None:
    chain.send(decode(1), [[1] * 4, [2] * 4])
    assert logits(chain, decode(1)) == [[40.0] * 6, [50.0] * 6]
    for stage in chain.stages:
        stage.gate.set()
    chain.send(prompt(2), [[1] * 4, [2] * 4, [7] * 4])
    assert logits(chain, prompt(2)) == [[100.0] * 6]
    chain.send(StepMessage(Kind.DROP, 3))
    chain.send(decode(4), [[5] * 4, [6] * 4])
    assert logits(chain, decode(4)) == [[80.0] * 6, [90.0] * 6]
    assert all("drop" in stage.log for stage in chain.stages)


def test_an_aborted_prompt_ends_in_both_stages(chain: Chain) -> None:
    chain.send(prompt(1), [[1] * 4, [2] * 4, [7] * 4])
    chain.send(StepMessage(Kind.ABORT, 1))
    chain.stages[0].gate.set()
    assert chain.reply(1)[0] == Reply(Status.ABORTED, 1)
    chain.send(decode(2), [[1] * 4, [2] * 4])
    assert logits(chain, decode(2)) == [[40.0] * 6, [50.0] * 6]


def test_a_stage_that_fails_says_so_and_the_next_step_runs(chain: Chain) -> None:
    chain.stages[0].fail = True
    chain.send(decode(1), [[1] * 4, [2] * 4])
    assert chain.reply(0)[0] == Reply(Status.FAILED, 1, "it is too hot.")
    chain.stages[0].fail = False
    chain.send(decode(2), [[1] * 4, [2] * 4])
    assert logits(chain, decode(2)) == [[40.0] * 6, [50.0] * 6]


def test_when_the_driver_goes_the_stages_end_and_serve_again_without_loading(chain: Chain) -> None:
    ends = chain.ends
    chain.stop()
    assert [one.result(30) for one in ends]
    chain.start()
    assert sorted(chain.loads) == ["mnn:0", "mnn:1"]
    assert all("drop" in stage.log for stage in chain.stages)
    chain.send(decode(1), [[1] * 4, [2] * 4])
    assert logits(chain, decode(1)) == [[40.0] * 6, [50.0] * 6]


def test_a_frame_of_another_size_than_its_message_says_ends_the_chain(chain: Chain) -> None:
    chain.wires[0].send(bare(decode(1).pack()) + b"\0" * 7)
    assert "another size" in chain.ends[0].result(30)
    with pytest.raises((EOFError, ConnectionResetError)):
        chain.wires[1].receive()
