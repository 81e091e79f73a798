"""Amounts as people write them become exact bytes, or one sentence."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import UserInputError
from scheduler.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("11", 11_811_160_064),
        ("11GiB", 11_811_160_064),
        ("11 gib", 11_811_160_064),
        ("11G", 11_811_160_064),
        ("11GB", 11_000_000_000),
        ("11000MiB", 11_534_336_000),
        ("11.5", 12_348_030_976),
        (" .5 ", 536_870_912),
        ("2.", 2_147_483_648),
        ("0", 0),
        ("0.0000000001", 0),
        ("1.9999999999B", 1),
        ("64k", 65_536),
        ("1024TiB", 1 << 50),
    ],
)
def test_known_amounts(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", " ", "-3", "+3", "nan", "inf", "1e3", "0x10", "1,5", "1 1", "11 GiB free", "GiB", "1.2.3",
     "١١", "11PiB", "1" * 19, "1" * 100_000, "11\x00", "11\n12"],
)  # fmt: skip
def test_nonsense_is_one_short_sentence(text: str) -> None:
    with pytest.raises(UserInputError) as caught:
        parse_size(text, "--vram")
    message = str(caught.value)
    assert message.startswith("--vram is ")
    assert "\n" not in message
    assert len(message) < 200


def test_more_than_an_exbibyte_is_refused() -> None:
    assert parse_size(str(1 << 30)) == 1 << 60
    with pytest.raises(UserInputError, match="check the unit"):
        parse_size(str((1 << 30) + 1))


@given(
    st.decimals(0, 10_000, places=6, allow_nan=False, allow_infinity=False),
    st.sampled_from([("", 1 << 30), ("MiB", 1 << 20), ("GB", 10**9), ("b", 1)]),
)
def test_parsing_is_exact_and_rounds_down(amount: Decimal, unit: tuple[str, int]) -> None:
    exact = Fraction(amount) * unit[1]
    parsed = parse_size(f"{amount:f}{unit[0]}")
    assert parsed <= exact < parsed + 1


@given(st.integers(0, 1 << 60))
def test_printed_sizes_read_back_nearly_the_same(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.05)
