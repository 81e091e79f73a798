"""Measured splits: a CSV file is read exactly or refused in one sentence; fits give it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cost import DeviceSpeed, HopSpeed, Speeds, StageParts, decode_seconds
from scheduler.errors import UserInputError
from scheduler.profiles import load_model
from scheduler.split_fit import SplitQuestion, fit_splits
from scheduler.split_rows import SplitRow, parse_split_rows, read_split_rows

CHATGLM = load_model("chatglm-6b")
ARTICLE = "gpu_blocks,tokens_per_second\n0,1.14\n23,3.424\n"
HEADER = "gpu_blocks,tokens_per_second,vram_mib\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("gpu_blocks,tokens\n0,1\n", "column 'tokens' is unknown"),
        ("gpu_blocks,vram_mib\n0,1\n1,2\n", "lacks the column tokens_per_second"),
        ("gpu_blocks,gpu_blocks\n0,1\n", "there twice"),
        (HEADER + "0,1,\n", "has 1 row"),
        (HEADER, "has no rows"),
        (HEADER + "0,nan,\n1,2,\n", "line 2: tokens_per_second is 'nan'"),
        (HEADER + "0,inf,\n1,2,\n", "tokens_per_second is 'inf'"),
        (HEADER + "0,-1,\n1,2,\n", "tokens_per_second is '-1'"),
        (HEADER + "0,0,\n1,2,\n", "tokens_per_second is '0'"),
        (HEADER + "-1,1,\n1,2,\n", "gpu_blocks is '-1'"),
        (HEADER + "1.5,1,\n1,2,\n", "gpu_blocks is '1.5'"),
        (HEADER + "0,1,-5\n1,2,\n", "vram_mib is '-5'"),
        (HEADER + "0,1\n1,2,\n", "has 2 values for the 3 columns"),
        (HEADER + "0,1,\n0,1,\n", "repeat gpu_blocks 0"),
        (HEADER + "0,1,\n0,2,\n", "contradict each other"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text: str, part: str) -> None:
    with pytest.raises(UserInputError) as error:
        parse_split_rows(text, "m.csv")
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="cannot be read"):
        read_split_rows(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserInputError, match="not UTF-8"):
        read_split_rows(tmp_path / "binary.csv")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        rows = parse_split_rows(text, "m.csv")
    except UserInputError:
        return
    assert len(rows) >= 2


@given(
    st.dictionaries(
        st.integers(0, 999), st.floats(0.001, 1e5, allow_subnormal=False), min_size=2, max_size=20
    )
)
def test_what_is_written_is_read(splits: dict[int, float]) -> None:
    lines = [f"{count}, {speed!r}" for count, speed in splits.items()]
    rows = parse_split_rows("GPU_blocks,tokens_per_second\n" + "\n".join(lines), "m.csv")
    assert rows == [SplitRow(count, splits[count]) for count in sorted(splits)]


def test_the_articles_two_rows() -> None:
    """Worked by hand: 1 / 1.14 s for 28 CPU blocks and lm_head (2.65 blocks' worth of fp32)."""
    fit = fit_splits(parse_split_rows(ARTICLE, "m.csv"), SplitQuestion(CHATGLM), "the article")
    head_in_blocks = (4 * 130528 * 4096) / (4 * 12 * 4096**2)
    assert fit.cpu_block_seconds == pytest.approx(1 / 1.14 / (28 + head_in_blocks), rel=5e-3)
    rest = 1 / 3.424 - (5 + head_in_blocks) * fit.cpu_block_seconds
    assert fit.gpu_block_seconds == pytest.approx(rest / 23, rel=2e-2)
    assert max(abs(point.residual) for point in fit.points) < 1e-9
    assert not fit.hop_fitted


@given(
    st.floats(2e10, 2e12),
    st.floats(5e9, 2e11),
    st.floats(0, 2e-3),
    st.sets(st.integers(1, 28), min_size=2, max_size=6),
)
def test_a_fit_finds_the_machine_that_made_the_rows(
    gpu: float, cpu: float, hop: float, counts: set[int]
) -> None:
    def device(rate: float) -> DeviceSpeed:
        return DeviceSpeed(rate, 1e18, 0.0, "measured", "made up")

    truth = Speeds({"gpu0": device(gpu), "cpu": device(cpu)}, HopSpeed(hop, 5e9))

    def rate(speeds: Speeds, count: int) -> float:
        on_cpu = StageParts("cpu", "fp32", range(count, 28), "fp32")
        stages = [StageParts("gpu0", "fp16", range(count)), on_cpu] if count else [on_cpu]
        return decode_seconds(stages, CHATGLM, speeds, 64).tokens_per_second

    rows = [SplitRow(count, rate(truth, count)) for count in sorted({0, *counts})]
    fit = fit_splits(rows, SplitQuestion(CHATGLM), "rows")
    for row in rows:
        assert rate(fit.speeds, row.gpu_blocks) == pytest.approx(row.tokens_per_second, rel=1e-3)


def test_rows_that_no_machine_can_give() -> None:
    rows = [SplitRow(0, 1.0), SplitRow(23, 100.0)]
    with pytest.raises(UserInputError, match="contradict each other"):
        fit_splits(rows, SplitQuestion(CHATGLM), "two rows")
    with pytest.raises(UserInputError, match="has 28 blocks"):
        fit_splits([SplitRow(0, 1.0), SplitRow(29, 2.0)], SplitQuestion(CHATGLM), "two rows")


def test_a_fall_is_reported_and_vram_is_a_line() -> None:
    rows = [SplitRow(0, 1.1, 900.0), SplitRow(10, 1.7, 4750.0), SplitRow(20, 1.6, 8600.0)]
    fit = fit_splits(rows, SplitQuestion(CHATGLM), "three rows")
    assert "falls from 1.7 to 1.6" in fit.notes[0]
    assert fit.vram is not None
    assert (fit.vram.base_mib, fit.vram.block_mib) == pytest.approx((900, 385))
