"""Stop strings against a reader that looks at every letter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.service.stop_strings import StopStrings

LETTERS = st.text("ab巴", max_size=5)


def until_stop(text: str, stops: list[str]) -> str:
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS.filter(bool), max_size=3))
def test_pieces_give_what_one_reading_gives(pieces: list[str], stops: list[str]) -> None:
    filtering = StopStrings(stops)
    shown = "".join(map(filtering.push, pieces)) + filtering.finish()
    text = "".join(pieces)
    assert shown == until_stop(text, stops)
    assert filtering.stopped == any(stop in text for stop in stops)


def test_nothing_is_held_that_cannot_become_a_stop() -> None:
    stopping = StopStrings(["\n\n"])
    assert stopping.push("one\n") == "one"
    assert stopping.push("two") == "\ntwo"
    assert stopping.push("\n") == ""
    assert stopping.push("\nthree") == ""
    assert stopping.stopped
    assert stopping.push("four") == ""
