"""At which precision a pulled model is exported when nobody says: the most exact that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cli.stored import precision_that_fits
from runtime.model_store import find_model, stored_model
from scheduler.errors import PlanError
from scheduler.planning import this_machine_planning
from scheduler.units import GIB
from scheduler.wanted import Wanted


@pytest.mark.parametrize(
    ("ram_gib", "vram_gib", "precision"),
    [
        (64, (), "fp16"),
        (16, (), "int8"),  # 6.2 G parameters: 23 GiB at fp32, 6 GiB at int8
        (8, (), "int4"),
        (64, (24,), "fp16"),
        (8, (8,), "int8"),
    ],
)
def test_the_most_exact_that_fits(ram_gib: int, vram_gib: tuple[int, ...], precision: str) -> None:
    vram = tuple(one * GIB for one in vram_gib) or None
    planning = replace(
        this_machine_planning(), wanted=Wanted(vram_bytes=vram, ram_bytes=ram_gib * GIB)
    )
    assert precision_that_fits(find_model("chatglm-6b"), planning) == precision


def test_what_fits_at_no_precision_is_refused_before_it_is_exported() -> None:
    planning = replace(this_machine_planning(), wanted=Wanted(ram_bytes=3 * GIB))
    with pytest.raises(PlanError, match="GiB"):
        precision_that_fits(find_model("chatglm-6b"), planning)


def test_without_a_geometry_it_is_fp16(tmp_path: Path) -> None:
    model = replace(stored_model("unheard-of"), checkpoint=tmp_path / "x.gguf")
    assert precision_that_fits(model, this_machine_planning()) == "fp16"
