"""Rounding before the converter, which would cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.export.weights import rounded_to_half

HALVES = st.floats(-65504, 65504, width=32)


@given(hnp.arrays(np.float32, (4, 6), elements=HALVES), st.sampled_from(["own", "lent", "turned"]))
def test_every_value_is_the_nearest_fp16_and_lent_arrays_stay(values: np.ndarray, how: str) -> None:
    expected = values.astype(np.float16).astype(np.float32)
    before = values.copy()
    if how == "lent":
        values.flags.writeable = False
    given_values = values.T if how == "turned" else values
    found = rounded_to_half(given_values)
    np.testing.assert_array_equal(found, expected.T if how == "turned" else expected)
    assert (found is values) == (how == "own")
    if how != "own":
        np.testing.assert_array_equal(values, before)


def test_a_value_beyond_fp16_is_refused() -> None:
    with pytest.raises(OverflowError, match="65504"):
        rounded_to_half(np.array([[0, -65505]], np.float32))
