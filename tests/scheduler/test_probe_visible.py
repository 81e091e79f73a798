"""The rules of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.probe.visible import numbers_are_ambiguous, visible_gpus

UUIDS = ["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"]


@pytest.mark.parametrize(
    ("setting", "order"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,1", [2, 1]),
        (" 2 , 0 ", [2, 0]),
        ("0,2,-1,1", [0, 2]),
        ("GPU-bbbb,0", [2, 0]),
        ("GPU-aaaa,0", []),  # two GPUs begin so
        ("GPU-aaaa2", [1]),
        ("0,0,1", [0]),
        ("3", []),
        ("1e0", []),
        ("NoDevFiles", []),
        ("²,1", []),
        ("99999999999999999999,1", []),
        ("MIG-GPU-aaaa1111/1/0", []),
    ],
)
def test_order(setting: str | None, order: list[int]) -> None:
    assert visible_gpus(setting, UUIDS)[0] == order


def test_what_ends_the_list_is_said() -> None:
    order, notes = visible_gpus("0,banana,1", UUIDS)
    assert order == [0]
    assert notes == [
        "CUDA_VISIBLE_DEVICES=0,banana,1 ends at 'banana',"
        " which names no further GPU of this machine.",
        "2 of 3 GPUs are hidden by CUDA_VISIBLE_DEVICES=0,banana,1.",
    ]


def test_mig_instances_are_said_to_be_unmeasured() -> None:
    assert "--vram" in visible_gpus("MIG-1234", UUIDS)[1][0]


@given(
    setting=st.lists(st.sampled_from(["0", "1", "2", "3", "-1", "GPU-a", "GPU-b", "x", ""])).map(
        ",".join
    ),
    count=st.integers(0, 3),
)
def test_never_more_never_twice_and_a_prefix_of_what_was_asked(setting: str, count: int) -> None:
    uuids = UUIDS[:count]
    order, notes = visible_gpus(setting, uuids)
    assert len(set(order)) == len(order)
    assert set(order) <= set(range(count))
    for entry, index in zip(setting.split(","), order, strict=False):
        assert entry == str(index) or UUIDS[index].startswith(entry)
    assert bool(notes) or len(order) == count


def test_only_numbers_are_ambiguous() -> None:
    assert numbers_are_ambiguous("GPU-aaaa1111, 1", None)
    assert not numbers_are_ambiguous("GPU-aaaa1111", None)
    assert not numbers_are_ambiguous("1", "PCI_BUS_ID")
    assert not numbers_are_ambiguous(None, None)
