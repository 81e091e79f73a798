"""Masks, positions and rotary tables against definitions written out by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from runtime.rotary import Rotary
from runtime.step_inputs import (
    MASKED,
    DecodeInputs,
    RotaryTable,
    Row,
    attention_mask,
    positions,
    two_positions,
)


def visible(query: int, key: int, context_end: int) -> bool:
    """ChatGLM's rule: everyone sees the context, generated tokens see what came before them."""
    return key < context_end or key <= query


@given(
    cached=st.integers(0, 70),
    new_tokens=st.integers(1, 12),
    context_end=st.integers(1, 40),
    spare=st.integers(0, 5),
)
def test_mask_follows_the_prefix_rule(
    cached: int, new_tokens: int, context_end: int, spare: int
) -> None:
    # Keys of the context are all in the cache or all new: a prompt is never cut in two.
    if cached < context_end < cached + new_tokens and cached > 0:
        context_end = cached
    capacity = cached + spare
    mask = attention_mask([Row(cached, context_end, 0)], new_tokens, capacity)
    assert mask.shape == (1, 1, new_tokens, capacity + new_tokens)
    for query in range(new_tokens):
        for slot in range(capacity + new_tokens):
            if slot < capacity:
                seen = slot < cached
            else:
                seen = visible(cached + query, cached + slot - capacity, context_end)
            assert mask[0, 0, query, slot] == (0.0 if seen else MASKED)


def test_positions_of_a_prompt_and_of_the_tokens_after_it() -> None:
    # ids: a b c [gMASK] <sop>, so <sop> has index 4 and [gMASK] index 3.
    prompt = two_positions([Row(0, 4, 3)], 5)
    assert prompt.tolist() == [[[0, 1, 2, 3, 3], [0, 0, 0, 0, 1]]]
    later = two_positions([Row(5, 4, 3), Row(9, 4, 3)], 1)
    assert later.tolist() == [[[3], [2]], [[3], [6]]]


def test_a_causal_row_counts_from_its_first_token_and_sees_no_later_one() -> None:
    rows = [Row(0), Row(3)]
    assert positions(rows, 2).tolist() == [[[0, 1]], [[3, 4]]]
    mask = attention_mask(rows, 2, 4)
    assert (mask[0, 0] == 0).tolist() == [[False] * 4 + [True, False], [False] * 4 + [True, True]]
    assert (mask[1, 0, 0] == 0).tolist() == [True, True, True, False, True, False]


def test_rotary_table_holds_cosines_of_position_times_frequency() -> None:
    table = RotaryTable(Rotary("two_halves", 32), max_positions=300)
    cos, sin = table.at([Row(299, 290, 7)], 1)
    assert cos.shape == sin.shape == (1, 2, 1, 8)
    for pair in range(8):
        frequency = 10000.0 ** (-2 * pair / 16)
        assert math.isclose(cos[0, 0, 0, pair], math.cos(7 * frequency), abs_tol=1e-6)
        assert math.isclose(sin[0, 1, 0, pair], math.sin(10 * frequency), abs_tol=1e-6)


def test_rotary_table_of_a_causal_family_has_one_position() -> None:
    table = RotaryTable(Rotary("halves", 8, base=500.0), max_positions=20)
    cos, sin = table.at([Row(11), Row(2)], 3)
    assert cos.shape == sin.shape == (2, 1, 3, 4)
    for pair in range(4):
        frequency = 500.0 ** (-2 * pair / 8)
        assert math.isclose(cos[0, 0, 2, pair], math.cos(13 * frequency), abs_tol=1e-6)
        assert math.isclose(sin[1, 0, 0, pair], math.sin(2 * frequency), abs_tol=1e-6)


rows_of_a_step = st.lists(
    st.one_of(st.none(), st.builds(Row, st.integers(0, 64), st.integers(2, 9), st.integers(0, 1))),
    min_size=3,
    max_size=3,
)


@given(st.lists(rows_of_a_step, min_size=1, max_size=4), st.booleans())
def test_inputs_updated_in_place_are_those_made_anew(
    steps: list[list[Row | None]], chatglm: bool
) -> None:
    rotary = Rotary("two_halves", 32) if chatglm else Rotary("halves", 8)
    table = RotaryTable(rotary, 100)
    inputs = DecodeInputs(table, 3, 64)
    for step in steps:
        # Tokens after the prompt's last one, as in decoding.
        rows = [row and Row(max(row.cached, row.context_end), row.context_end, 1) for row in step]
        inputs.update(rows)
        used = [row or Row(0) for row in rows]
        cos, sin = table.at(used, 1)
        assert (inputs.cos == cos).all()
        assert (inputs.sin == sin).all()
        assert (inputs.mask == attention_mask(used, 1, 64)).all()
