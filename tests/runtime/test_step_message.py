"""What is packed for the pipe comes out as it went in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.step_inputs import Row
from runtime.step_message import MOST_ROWS, Kind, Reply, Status, StepMessage

numbers = st.integers(0, (1 << 31) - 1)
row = st.one_of(st.none(), st.builds(Row, numbers, numbers, numbers))


@st.composite
def messages(draw: st.DrawFn) -> StepMessage:
    count = draw(st.integers(0, MOST_ROWS))
    source = st.integers(-1, MOST_ROWS - 1)
    return StepMessage(
        draw(st.sampled_from(Kind)),
        draw(st.integers(0, (1 << 32) - 1)),
        group=draw(st.integers(0, 255)),
        lane=draw(st.integers(0, 255)),
        capacity=draw(numbers),
        tokens=draw(numbers),
        prefill_row=draw(st.integers(0, MOST_ROWS - 1)),
        sources=tuple(draw(st.lists(source, min_size=count, max_size=count))),
        rows=tuple(draw(st.lists(row, min_size=count, max_size=count))),
    )


@given(messages())
def test_a_message_survives_the_pipe(message: StepMessage) -> None:
    assert StepMessage.unpack(message.pack()) == message
    assert StepMessage.unpack(message.pack(Kind.ARRANGE)).kind is Kind.ARRANGE
    assert len(message.pack()) < 512  # a pipe takes as much in one piece


@given(st.sampled_from(Status), st.integers(0, (1 << 32) - 1), st.text())
def test_an_answer_survives_the_pipe(status: Status, sequence: int, reason: str) -> None:
    reply = Reply(status, sequence, reason)
    assert Reply.unpack(reply.pack()) == reply
