"""Greedy answers are the same whatever runs beside them, before them, and on how many stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.bundle import Bundle, open_bundle
from runtime.engine import Engine
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.sampling import Sampling
from scheduler.plan import Precision
from tests.support.engines import start_engine
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT

# Words, then how many tokens: short ones, one that crosses the cache's first step, a long one.
LENGTHS = (1, 5, 17, 58, 90)
NEW_TOKENS = 24


@dataclass(frozen=True)
class Visit:
    """One request of a schedule: `wait` tokens of the one before it are read first."""

    prompt: int
    wait: int
    cancel_after: int | None


visits = st.builds(
    Visit,
    st.integers(0, len(LENGTHS) - 1),
    st.integers(0, 12),
    st.one_of(st.none(), st.none(), st.integers(0, 10)),
)


def prompts(bundle: Bundle) -> list[list[int]]:
    tokens = bundle.manifest.tokens
    assert tokens is not None
    return [
        [*(100 + 37 * number + 5 * index for index in range(length)), tokens.gmask, tokens.bos]
        for number, length in enumerate(LENGTHS)
    ]


def alone(engine: Engine, bundle: Bundle) -> list[list[int]]:
    return [list(engine.submit(one, Sampling(), NEW_TOKENS)) for one in prompts(bundle)]


def replay(engine: Engine, bundle: Bundle, expected: list[list[int]], plan: list[Visit]) -> None:
    """Run a schedule through the engine; every answer must be as expected, as far as it came."""
    texts = prompts(bundle)
    running = []
    for visit in plan:
        if running:
            _, stream, got = running[-1]
            for _ in range(visit.wait):
                token = next(stream, None)
                if token is None:
                    break
                got.append(token)
        running.append((visit, engine.submit(texts[visit.prompt], Sampling(), NEW_TOKENS), []))
    for visit, stream, got in running:
        for token in stream:
            got.append(token)
            if visit.cancel_after is not None and len(got) > visit.cancel_after:
                stream.cancel()
        whole = expected[visit.prompt]
        if stream.finish_reason == "cancelled":
            assert visit.cancel_after is not None
            assert got == whole[: len(got)]
        else:
            assert got == whole


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return open_bundle(TINY_BUNDLE)


@pytest.fixture(scope="module")
def engines(tiny: Bundle) -> Iterator[list[Engine]]:
    """One stage with two slots, with four, with six; two stages that work at once; three slots."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(start_engine(tiny, slots=slots, first_blocks=first, cores=cores))
            for slots, first, cores in ((2, 0, 1), (4, 0, 1), (6, 0, 1), (4, 5, 2), (3, 3, 1))
        ]


def test_every_engine_gives_the_answers_of_one_slot(tiny: Bundle, engines: list[Engine]) -> None:
    with start_engine(tiny, slots=1) as single:
        expected = alone(single, tiny)
    assert len({tuple(answer) for answer in expected}) == len(LENGTHS)
    for engine in engines:
        assert alone(engine, tiny) == expected


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=st.lists(visits, min_size=2, max_size=9), which=st.integers(0, 4))
def test_random_schedules_change_no_answer(
    tiny: Bundle, engines: list[Engine], plan: list[Visit], which: int
) -> None:
    engine = engines[which]
    if not hasattr(test_random_schedules_change_no_answer, "expected"):
        test_random_schedules_change_no_answer.expected = alone(engines[0], tiny)  # type: ignore[attr-defined]
    expected = test_random_schedules_change_no_answer.expected  # type: ignore[attr-defined]
    replay(engine, tiny, expected, plan)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_reduced_weights_keep_answers_too(
    precision: Precision, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("reduced") / "bundle"
    export_bundle(ExportRequest(TINY_CHECKPOINT, out, (precision,)))
    bundle = open_bundle(out)
    crowd = [Visit(number % len(LENGTHS), 2 * number, None) for number in range(9)]
    expected: list[list[int]] = []
    for slots, first, cores in ((2, 0, 1), (4, 0, 1), (4, 4, 2)):
        with start_engine(
            bundle, slots=slots, first_blocks=first, precision=precision, cores=cores
        ) as engine:
            expected = expected or alone(engine, bundle)
            assert alone(engine, bundle) == expected
            replay(engine, bundle, expected, crowd)
            replay(engine, bundle, expected, crowd[::-1])


def test_a_cancelled_prompt_leaves_the_slot_to_the_next(tiny: Bundle) -> None:
    text = prompts(tiny)[4]
    with start_engine(tiny, slots=1) as engine:
        expected = list(engine.submit(text, Sampling(), NEW_TOKENS))
        for _ in range(5):
            streams = [engine.submit(text, Sampling(), NEW_TOKENS) for _ in range(3)]
            time.sleep(0.002)
            for stream in streams[:2]:
                stream.cancel()
            assert list(streams[2]) == expected
            for stream in streams[:2]:
                got = list(stream)
                assert got == expected[: len(got)]
                assert stream.finish_reason in ("cancelled", "length", "stop")
