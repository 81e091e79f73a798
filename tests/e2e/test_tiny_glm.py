"""The tiny model through its bundle and both stages: right answers, whatever the split."""

from __future__ import annotations

from collections.abc import Callable

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.chat_format import chat_format_of
from runtime.conversation import Conversation
from runtime.engine import Engine, Generation
from runtime.launch import launches_of
from runtime.sampling import Sampling
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.support.tiny import TINY_BUNDLE, questions

BLOCKS = 8


def answers(gpu_blocks: int, items: list[dict[str, object]]) -> list[str]:
    """Greedy answers through real worker processes, one per stage."""
    bundle = open_bundle(TINY_BUNDLE)
    plan = make_plan(
        PlanRequest(spec_of_bundle(bundle), vram_bytes=(1 << 30,), gpu_blocks=gpu_blocks)
    )
    launches = launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)
    chat_format = chat_format_of(bundle)
    found = []
    with Engine(bundle, launches, 512) as engine:
        for item in items:
            conversation = Conversation(engine, chat_format)
            conversation.history = [(q, a) for q, a in item["history"]]  # type: ignore[attr-defined]
            pieces = conversation.ask(str(item["question"]), Sampling(), 64, Generation())
            found.append("".join(pieces))
    return found


def test_answers_are_right_through_both_stages(
    record_property: Callable[[str, object], None],
) -> None:
    items = questions()
    found = answers(5, items)
    right = [text == item["answer"] for text, item in zip(found, items, strict=True)]
    wrong = [
        (i["question"], i["answer"], f)
        for i, f, r in zip(items, found, right, strict=True)
        if not r
    ]
    held_out = [
        r for i, r in zip(items, right, strict=True) if i["category"] in ("addition", "subtraction")
    ]
    record_property(
        "figure",
        f"tiny-glm through its bundle, blocks 0-4 and 5-7: {sum(right)} of {len(right)} answers"
        f" exact; arithmetic kept out of training: {sum(held_out)} of {len(held_out)}",
    )
    assert len(held_out) >= 100
    assert sum(right) / len(right) >= 0.95, wrong
    assert sum(held_out) / len(held_out) >= 0.9, wrong


def test_every_split_gives_the_same_text() -> None:
    items = questions()[::24]
    whole = answers(0, items)
    for gpu_blocks in range(1, BLOCKS + 1):
        assert answers(gpu_blocks, items) == whole
