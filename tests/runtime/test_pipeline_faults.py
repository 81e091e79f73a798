"""What the parent sees when a stage cannot load, fails or dies."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine, Generation
from runtime.launch import StageLaunch, launches_of
from runtime.pipeline import Pipeline
from runtime.sampling import Sampling
from runtime.shared_array import SharedArray
from runtime.supervision import Supervision
from scheduler.errors import EngineError, PlanError, UserInputError
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.support.tiny import TINY_BUNDLE

PROMPT = [100, 200, 300]


@pytest.fixture
def two_stages() -> list[StageLaunch]:
    bundle = open_bundle(TINY_BUNDLE)
    plan = make_plan(PlanRequest(spec_of_bundle(bundle), vram_bytes=(1 << 30,), gpu_blocks=5))
    return launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)


def prompt_ids() -> list[int]:
    tokens = open_bundle(TINY_BUNDLE).manifest.tokens
    return [*PROMPT, tokens.gmask, tokens.bos]


@pytest.fixture
def shared_arrays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all shared memory that is created during the test."""
    names: list[str] = []
    create = SharedArray.create

    def remembered(numbers: int) -> SharedArray:
        array = create(numbers)
        names.append(array.name)
        return array

    monkeypatch.setattr(SharedArray, "create", remembered)
    return names


def assert_removed(names: list[str]) -> None:
    assert names
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedArray.attach(name)


def test_a_killed_worker_is_named_with_its_signal(
    two_stages: list[StageLaunch], shared_arrays: list[str]
) -> None:
    never_again = partial(Pipeline, supervision=Supervision(most_restarts=0))
    with Engine(open_bundle(TINY_BUNDLE), two_stages, 128, start_pipeline=never_again) as engine:
        tokens = engine.generate(prompt_ids(), Sampling(), 50, Generation())
        next(tokens)
        victim = engine.pipeline.process_ids[1]
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(EngineError, match=r"cpu \(mnn:cpu, blocks 5-7\) died with signal SIGK"):
            list(tokens)
    assert_removed(shared_arrays)


def test_a_damaged_block_is_a_sentence_and_leaves_nothing(
    two_stages: list[StageLaunch], tmp_path: Path, shared_arrays: list[str]
) -> None:
    damaged = tmp_path / "block_05.mnn"
    damaged.write_bytes(b"\x00" * 100)
    launch = replace(two_stages[1], block_files=((5, damaged),))
    with pytest.raises(EngineError, match=r"cannot load .*block_05\.mnn"):
        Engine(open_bundle(TINY_BUNDLE), [two_stages[0], launch], 128)
    assert_removed(shared_arrays)


def test_a_prompt_that_does_not_fit_says_by_how_much(two_stages: list[StageLaunch]) -> None:
    with Engine(open_bundle(TINY_BUNDLE), two_stages, 64) as engine:
        too_long = [7] * 70 + prompt_ids()
        with pytest.raises(UserInputError, match=r"the prompt has 75 tokens.*shorten it by 12"):
            list(engine.generate(too_long, Sampling(), 5, Generation()))
        generation = Generation()
        assert list(engine.generate(prompt_ids(), Sampling(), 5, generation))
        assert generation.finish_reason in ("stop", "length")


def test_the_context_ends_an_answer(two_stages: list[StageLaunch]) -> None:
    with Engine(open_bundle(TINY_BUNDLE), two_stages, 8) as engine:
        generation = Generation()
        ids = list(engine.generate(prompt_ids(), Sampling(temperature=50.0), 1000, generation))
        assert generation.finish_reason == "stop" or len(ids) == 4


def test_a_gpu_that_is_not_here_is_refused() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    plan = make_plan(PlanRequest(spec_of_bundle(bundle), vram_bytes=(1 << 30,), gpu_blocks=5))
    with pytest.raises(PlanError, match="gpu0 and this machine has no GPU"):
        launches_of(plan, bundle, frozenset({"mnn:cpu", "mnn:cuda"}), {}, 1)
