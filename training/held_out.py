"""What the model must never see in training, so that the test list measures more than memory."""

from __future__ import annotations

import random
import zlib

from training.item import FOLLOW_UP, MARKS, Item

PAIR_SHARE = 0.06
PAIR_SEED = 20231124
WORDING_BUCKETS = 16


def is_pair_held_out(a: int, b: int) -> bool:
    """Whether sums and differences of these two numbers, in either order, are for testing only."""
    low, high = min(a, b), max(a, b)
    return random.Random(PAIR_SEED * 10_000 + low * 100 + high).random() < PAIR_SHARE


def is_held_out(item: Item) -> bool:
    """Whether an item's numbers, or else its wording, are for testing only, whatever came before.

    The wording of a follow-up includes the question before it. Small talk has few wordings and is
    tested with those that were learned.
    """
    if item.kind == "talk":
        return False
    if item.operands:
        return is_pair_held_out(*item.operands)
    questions = [item.context[-1].question] if item.kind == FOLLOW_UP else []
    wording = "\n".join(one.strip(MARKS).lower() for one in [*questions, item.question])
    return zlib.crc32(wording.encode()) % WORDING_BUCKETS == 0


def may_train(item: Item) -> bool:
    """Whether training may show an item: nothing in any of its rounds is held out."""
    return not is_held_out(item) and all(map(may_train, item.context))


def may_test(item: Item) -> bool:
    """Whether the test list may hold an item: it is held out (or talk), the rounds before not."""
    return (item.kind == "talk" or is_held_out(item)) and all(map(may_train, item.context))
