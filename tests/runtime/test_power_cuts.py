"""The power goes at some change of a file: readers find the old state or the new one.

A few changes of each writer, the publishing ones among them; `python -m tests.bench.power_cuts`
cuts at every one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.power_cuts.ordering import unsynced_at_publication
from tests.support.power_cuts.run import build, cut
from tests.support.power_cuts.scenarios import SCENARIOS

CUTS = {"export": 4, "export over a bundle": 4, "export into a bundle": 4, "calibration parts": 5}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = build(tmp_path_factory.mktemp("power-cut"))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("cutting the power needs Linux and a C compiler")
        pytest.skip("cutting the power needs Linux and a C compiler")
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_left_is_old_or_new(library: Path, tmp_path: Path, scenario: str) -> None:
    told = cut(library, tmp_path / "run", scenario, CUTS.get(scenario), again=False)
    assert told.failures == []
    assert told.unsynced == []
    assert told.changes > 4
    assert told.old > 0


def test_the_order_of_changes_is_judged() -> None:
    """Against traces by hand, so that the check itself can fail."""
    good = ["open\t/r/x\t", "write\t/r/x\t", "fsync\t/r/x\t", "rename\t/r/x\t/r/f", "fsync\t/r\t"]
    assert unsynced_at_publication(good, Path("/r"), "f") == []
    no_file_sync = [line for line in good if line != "fsync\t/r/x\t"]
    assert unsynced_at_publication(no_file_sync, Path("/r"), "f") == ["/x: write"]
    assert unsynced_at_publication(good[:-1], Path("/r"), "f") == ["the name f"]
    assert unsynced_at_publication(good[:3], Path("/r"), "f") == ["nothing was renamed to f"]
    inside = ["mkdir\t/r/d\t", "open\t/r/d/x\t", "fsync\t/r/d/x\t", "rename\t/r/d\t/r/f"]
    assert unsynced_at_publication([*inside, "fsync\t/r\t"], Path("/r"), "f") == [
        "/d: name of /r/d/x"
    ]
