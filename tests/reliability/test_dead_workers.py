"""Workers that are killed or stopped under load: every answer is the one it would have been."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.engine import Engine, Stream
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.sampling import Sampling
from runtime.supervision import Supervision
from scheduler.plan import Precision
from tests.support.engines import start_engine
from tests.support.llama_checkpoint import LLAMA, write_checkpoint
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

NEW_TOKENS = 40
MANY = Supervision(most_restarts=50, pause_seconds=0.01)
SAMPLED = Sampling(temperature=30.0, seed=5, presence_penalty=1.0)


@dataclass
class Case:
    """An engine with two stages, what to ask of it, and the undisturbed answers."""

    engine: Engine
    prompts: list[list[int]]
    expected: list[list[int]]

    def ask(self) -> list[Stream]:
        """Greedy and sampled requests in turn, more of them than there are slots."""
        return [
            self.engine.submit(prompt, SAMPLED if number % 2 else Sampling(), NEW_TOKENS,
                               ignore_end=True)
            for number, prompt in enumerate(self.prompts)
        ]  # fmt: skip

    def check(self, streams: list[Stream], begun: list[list[int]]) -> None:
        """Every answer, from its first token on, is as expected, and none of it came twice."""
        for stream, first, whole in zip(streams, begun, self.expected, strict=True):
            assert [*first, *stream] == whole
            assert stream.generation.token_ids == whole
            assert len(stream.generation.token_seconds) == len(whole)
            assert stream.finish_reason == "length"


def small_bundle(model: str, precision: Precision, folder: Path) -> Bundle:
    if (model, precision) == ("tiny", "fp32"):
        return open_bundle(TINY_BUNDLE)
    source = TINY_CHECKPOINT
    if model == "llama":
        source = folder / "checkpoint"
        config = LLAMA | {"max_position_embeddings": 256, "num_hidden_layers": 3}
        write_checkpoint(source, config, precision="fp32")
    export_bundle(ExportRequest(source, folder / "out", (precision,)))
    return open_bundle(folder / "out")


@pytest.fixture(
    scope="module", params=["tiny fp32 4", "tiny int8 4", "llama fp32 3", "llama int8 2"]
)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    model, precision, slots = request.param.split()
    bundle = small_bundle(model, precision, tmp_path_factory.mktemp("bundle"))
    tokens = bundle.manifest.tokens
    end = (tokens.gmask, tokens.bos) if tokens else ()
    prompts = [[*(5 + 3 * n + i for i in range(length)), *end]
               for n, length in enumerate((4, 11, 30, 7, 19, 2))]  # fmt: skip
    with start_engine(
        bundle,
        slots=int(slots),
        first_blocks=2,
        precision=precision,
        cores=2,
        supervision=MANY,
    ) as engine:
        case = Case(engine, prompts, [])
        case.expected = [list(stream) for stream in case.ask()]
        engine.forget()
        yield case


def kill(number: int) -> Callable[[Engine], None]:
    return lambda engine: os.kill(engine.pipeline.process_ids[number], signal.SIGKILL)


def read(streams: list[Stream], begun: list[list[int]], tokens: int) -> None:
    for stream, got in zip(streams, begun, strict=True):
        for _ in range(tokens - len(got)):
            got.append(next(stream))


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("after", [0, 1, 17])
def test_answers_go_on_where_a_worker_was_killed(case: Case, victim: int, after: int) -> None:
    engine = case.engine
    other = engine.pipeline.process_ids[1 - victim]
    losses = engine.pipeline.losses
    streams, begun = case.ask(), [[] for _ in case.prompts]
    read(streams[:2], begun[:2], after)
    os.kill(engine.pipeline.process_ids[victim], signal.SIGKILL)
    case.check(streams, begun)
    assert engine.pipeline.losses == losses + 1
    assert engine.pipeline.process_ids[1 - victim] == other  # kept its weights
    assert 1 <= max(stream.generation.replays for stream in streams) <= 1
    engine.forget()
