"""Answers that go on from tokens which another engine had given already."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.engine import Engine
from runtime.sampling import Sampling
from scheduler.errors import UserInputError
from tests.support.answers import small_bundle
from tests.support.engines import start_engine

NEW_TOKENS = 14
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=30.0, seed=11, presence_penalty=1.5, frequency_penalty=0.5),
)


@pytest.fixture(scope="module", params=["tiny fp32", "llama int8"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, list[int]]]:
    """An engine that forgets whatever it answered before, and a prompt."""
    model, precision = request.param.split()
    bundle = small_bundle(model, precision, tmp_path_factory.mktemp("bundle"))
    tokens = bundle.manifest.tokens
    prompt = [*range(20, 37), *((tokens.gmask, tokens.bos) if tokens else ())]
    with start_engine(bundle, slots=2, first_blocks=1, precision=precision) as engine:
        yield engine, prompt


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("given", [1, 6])
def test_an_answer_goes_on_as_it_would_have(
    case: tuple[Engine, list[int]], sampling: Sampling, given: int
) -> None:
    engine, prompt = case
    engine.forget()
    whole = list(engine.submit(prompt, sampling, NEW_TOKENS, ignore_end=True))
    engine.forget()
    beside = engine.submit(prompt[3:], SAMPLINGS[1], NEW_TOKENS, ignore_end=True)
    stream = engine.submit(
        prompt, sampling, NEW_TOKENS, ignore_end=True, replayed_ids=whole[:given]
    )
    assert list(stream) == whole[given:]
    list(beside)
    assert stream.finish_reason == "length"
    generation = stream.generation
    assert generation.token_ids == whole
    assert len(generation.token_seconds) == NEW_TOKENS - given
    assert len(generation.decode) == NEW_TOKENS - given - 1  # the first one came from the replay
    assert generation.reused_tokens == 0


def test_an_answer_that_was_whole_only_ends(case: tuple[Engine, list[int]]) -> None:
    engine, prompt = case
    engine.forget()
    whole = list(engine.submit(prompt, Sampling(), 5, ignore_end=True))
    stream = engine.submit(prompt, Sampling(), 5, ignore_end=True, replayed_ids=whole)
    assert list(stream) == []
    assert stream.finish_reason == "length"


def test_the_end_token_still_ends_it(case: tuple[Engine, list[int]]) -> None:
    engine, prompt = case
    engine.forget()
    whole = list(engine.submit(prompt, SAMPLINGS[1], NEW_TOKENS, ignore_end=True))
    end = next(token for number, token in enumerate(whole) if number > 4)
    first = whole.index(end)
    stream = engine.submit(
        prompt,
        SAMPLINGS[1],
        NEW_TOKENS,
        ignore_end=True,
        stop_ids=frozenset({end}),
        replayed_ids=whole[: min(3, first)],
    )
    assert list(stream) == whole[min(3, first) : first]
    assert stream.finish_reason == "stop"


def test_log_probabilities_are_those_of_all_tokens(case: tuple[Engine, list[int]]) -> None:
    engine, prompt = case
    sampling = Sampling(top_logprobs=2)
    engine.forget()
    first = engine.submit(prompt, sampling, 6, ignore_end=True)
    whole = list(first)
    engine.forget()
    stream = engine.submit(prompt, sampling, 6, ignore_end=True, replayed_ids=whole[:4])
    assert list(stream) == whole[4:]
    assert stream.generation.logprobs == first.generation.logprobs


def test_what_cannot_be_replayed_is_refused(case: tuple[Engine, list[int]]) -> None:
    engine, prompt = case
    with pytest.raises(UserInputError, match="not in the vocabulary"):
        engine.submit(prompt, Sampling(), 5, replayed_ids=[1 << 30])
    with pytest.raises(UserInputError, match="do not fit the context of 256"):
        engine.submit(prompt, Sampling(), 500, replayed_ids=[5] * 250)
