"""Steps of different groups are in different stages at once."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.step_inputs import Row
from runtime.step_message import Kind, Status, StepMessage
from tests.support.engines import start_engine
from tests.support.tiny import TINY_BUNDLE


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process")
def test_the_first_stage_works_on_one_group_while_the_second_has_another() -> None:
    with start_engine(open_bundle(TINY_BUNDLE), slots=4, first_blocks=5, cores=2) as engine:
        pipeline = engine.pipeline
        width = pipeline.lanes.hidden_size
        assert pipeline.lanes.decode_lanes == 2
        engine._loop.close()  # this test schedules by itself

        def send(group: int) -> StepMessage:
            rows = (Row(0), Row(0))
            pipeline.hidden(group, 2)[...] = np.random.default_rng(group).standard_normal(width)
            message = StepMessage(
                Kind.DECODE, pipeline.next_sequence(), group, group, 64, sources=(0, 1), rows=rows
            )
            pipeline.send(message)
            return message

        def first_stage_seconds(group: int) -> float:
            return float(pipeline.lanes.times(pipeline._times, group)[0])

        os.kill(pipeline.process_ids[1], signal.SIGSTOP)
        messages = [send(0), send(1)]
        until = time.monotonic() + 60
        while not (first_stage_seconds(0) and first_stage_seconds(1)):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert all(pipeline.lanes.times(pipeline._times, group)[1] == 0 for group in (0, 1))
        os.kill(pipeline.process_ids[1], signal.SIGCONT)
        finished = []
        while len(finished) < 2:
            finished += pipeline.collect()
        assert [one.message for one in finished] == messages
        assert all(one.status is Status.DONE for one in finished)
        answers = [np.array(pipeline.logits(message)) for message in messages]
        for one in answers:
            np.testing.assert_array_equal(one[0], one[1])
        assert (answers[0] != answers[1]).any()


def test_what_decode_steps_arrange_survives_the_prompt_that_they_pass() -> None:
    """A row outgrows 64 tokens while the prompt that it passes is in the first stage."""
    rng = np.random.default_rng(1)
    with start_engine(open_bundle(TINY_BUNDLE), slots=2, first_blocks=5) as engine:
        pipeline = engine.pipeline
        width, lane = pipeline.lanes.hidden_size, pipeline.lanes.prefill_lane
        prompts = rng.standard_normal((2, 64, width)).astype(np.float32)
        steps = rng.standard_normal((2, width)).astype(np.float32)
        engine._loop.close()  # this test schedules by itself

        def prefill(row: int) -> StepMessage:
            pipeline.hidden(lane, 64)[...] = prompts[row]
            rows = tuple(Row(0, 63, 62) if one == row else None for one in (0, 1))
            number = pipeline.next_sequence()
            return StepMessage(Kind.PREFILL, number, 0, lane, 64, 64, row, (0, 1), rows)

        def decode(cached: int) -> StepMessage:
            pipeline.hidden(0, 2)[0] = steps[cached - 64]
            rows = (Row(cached, 63, 62), None)
            return StepMessage(
                Kind.DECODE, pipeline.next_sequence(), 0, 0, 128, sources=(0, 1), rows=rows
            )

        def logits(*messages: StepMessage) -> np.ndarray:
            for message in messages:
                pipeline.send(message)
            left = len(messages)
            while left:
                left -= len(pipeline.collect())
            return np.array(pipeline.logits(messages[-1]))

        answers = []
        for together in (False, True):
            pipeline.send(StepMessage(Kind.DROP, pipeline.next_sequence(), 0))
            logits(prefill(0))
            if together:
                logits(prefill(1), decode(64))
            else:
                logits(decode(64))
            answers.append(logits(decode(65))[0])
        np.testing.assert_array_equal(answers[0], answers[1])
