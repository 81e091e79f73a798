"""Damaged input for every reader: a small part of what tests/bench/fuzz_readers.py tries."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.errors import GlmPlanError, UserInputError
from scheduler.hf_config import spec_from_hf_config
from scheduler.split_rows import parse_split_rows
from scheduler.strict_json import parse_strict_json
from scheduler.toml_file import read_toml
from tests.support.fuzzing.campaign import run_targets
from tests.support.fuzzing.targets import TARGETS
from tests.support.llama_checkpoint import LLAMA

INPUTS = 2000

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space")
def test_every_reader_takes_or_refuses_every_input(tmp_path: Path) -> None:
    shares = sum(target.share for target in TARGETS.values())
    counts = {name: INPUTS * target.share // shares for name, target in TARGETS.items()}
    told = run_targets(counts, 7, tmp_path / "fuzz", 250)
    for name, outcome in told.items():
        assert outcome.failures == [], name
        assert outcome.accepted + outcome.refused == counts[name]
        assert outcome.accepted > 0, name


def test_damage_is_repeatable_and_real() -> None:
    for name, target in TARGETS.items():
        seeds = [b'["plan", "--vram", "11", "--json"]']
        first, second = (
            [target.mutate(random, seeds) for _ in range(50)] for random in (Random(1), Random(1))
        )
        assert first == second, name
        assert len(set(first)) > 20, name


def refusal(read: Callable[[], object], kind: type[Exception]) -> str:
    """The sentence that refuses an input, empty where it is accepted; other exceptions pass."""
    try:
        read()
    except kind as error:
        return str(error)
    return ""


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_as_text_formats(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    assert refusal(lambda: read_toml(path, "it", "a file"), UserInputError).isprintable()
    assert "\n" not in refusal(lambda: parse_strict_json(data), ValueError)
    rows = data.decode("latin-1")
    assert refusal(lambda: parse_split_rows(rows, "rows.csv"), UserInputError).isprintable()


@given(st.dictionaries(st.sampled_from([*LLAMA, "num_experts", "text_config"]), VALUES))
@settings(max_examples=100)
def test_any_values_in_a_configuration(changes: dict[str, Any]) -> None:
    assert refusal(lambda: spec_from_hf_config(LLAMA | changes, "name"), GlmPlanError).isprintable()


@given(VALUES)
@settings(max_examples=100)
def test_json_that_python_writes_is_read_back_or_refused(value: Any) -> None:
    text = json.dumps({"value": value})
    said = refusal(lambda: parse_strict_json(text.encode()), ValueError)
    if not said:
        assert json.dumps(parse_strict_json(text.encode())) == text
    else:
        assert any(one in said for one in ("NaN", "Infinity", "surrogate"))
