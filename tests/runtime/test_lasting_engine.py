"""An engine's process that hangs, and one that cannot begin, as its service sees them."""

from __future__ import annotations

import logging
import os
import queue
import signal
from pathlib import Path

import pytest

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine_messages import EngineConfig
from runtime.lasting_engine import LastingEngine
from runtime.launch import launches_of
from runtime.restart_rules import PATIENCE, WINDOW_SECONDS, pause_seconds, recent
from runtime.sampling import Sampling
from runtime.stream import Generation, Item
from scheduler.errors import EngineError, PlanError
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.support.tiny import TINY_BUNDLE

PROMPT = [100, 200, 300]
GREEDY = Sampling(logit_bias=((838, 100.0),))


def no_way(device: str, _reason: str) -> EngineConfig:
    raise PlanError(f"{device} stays as it is.")


def config_of(folder: Path) -> EngineConfig:
    bundle = open_bundle(folder)
    plan = make_plan(PlanRequest(spec_of_bundle(bundle), context=256))
    launches = launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)
    return EngineConfig(bundle, launches, 256, 2, logging.WARNING)


def prompt() -> list[int]:
    tokens = open_bundle(TINY_BUNDLE).manifest.tokens
    return [*PROMPT, tokens.gmask, tokens.bos]


def test_an_engine_that_hangs_is_replaced_and_its_answer_goes_on() -> None:
    engine = LastingEngine(config_of(TINY_BUNDLE), no_way, hang_ticks=1)
    engine.start()
    try:
        engine.loaded.result(60)
        items: queue.Queue[Item] = queue.Queue()
        generation = Generation()
        engine.submit(prompt(), GREEDY, 100, generation=generation, on_item=items.put)
        given = [items.get(timeout=60) for _ in range(3)]
        assert engine.process_id is not None
        os.kill(engine.process_id, signal.SIGSTOP)
        while (item := items.get(timeout=60)) is not None:
            given.append(item)
        assert given == [838] * 100 == generation.token_ids
        assert (generation.finish_reason, engine.restarts, engine.replays) == ("length", 1, 1)
        assert len(generation.token_seconds) == 100
        assert len(generation.decode) <= 99
    finally:
        engine.close()
    assert engine.state == "failed"
    with pytest.raises(EngineError, match="closed"):
        engine.submit(prompt(), GREEDY, 5, generation=Generation(), on_item=items.put)


def test_pauses_double_and_deaths_are_forgotten() -> None:
    assert [pause_seconds(deaths) for deaths in range(8)] == [0, 0, 1, 2, 4, 8, 16, 30]
    assert recent([0.0, 5.0], WINDOW_SECONDS) == [5.0]
    assert PATIENCE > 1
