"""The cache of MNN's backend: bytes as its shape says, given back, and rows where asked."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from runtime.backends.mnn_cache import BlockCache, CacheShape
from tests.support.tiny import REPOSITORY, TINY_BUNDLE

CAPACITY = 8192

# Prints resident bytes: with blocks loaded, with a cache of 4 rows, of 2 rows, and without one.
CHILD = """
import json, os, sys
from pathlib import Path
answer = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
from runtime.allocator import return_freed_memory
from runtime.backends.mnn import MnnBackend

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

return_freed_memory()
capacity, *files = sys.argv[1:]
backend = MnnBackend("cpu", 1, 4, 32)
for file in files:
    backend.load_block(Path(file))
found = [resident()]
backend.arrange(3, 4, int(capacity), (-1,) * 4)
found.append(resident())
backend.arrange(3, 2, int(capacity), (3, 1))
found.append(resident())
backend.drop(3)
found.append(resident())
os.write(answer, json.dumps(found).encode())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_group_takes_what_its_shape_says_and_gives_it_back() -> None:
    files = sorted(map(str, TINY_BUNDLE.glob("*/block_*.mnn")))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(CAPACITY), *files],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded, four, two, none = json.loads(done.stdout)
    row = len(files) * CAPACITY * 2 * 4 * 32 * 4  # keys and values of 4 heads of 32, fp32
    slack = row // 50 + (2 << 20)
    assert abs(four - loaded - 4 * row) < slack
    assert abs(two - loaded - 2 * row) < slack
    assert abs(none - loaded) < slack


def test_rows_move_with_what_they_hold_and_new_ones_are_zero() -> None:
    random = np.random.default_rng(0)
    cache = BlockCache(CacheShape(3, 2, 4, 64))
    cache.keys.array[...] = random.standard_normal(cache.keys.array.shape)
    cache.values.array[...] = random.standard_normal(cache.values.array.shape)
    moved = cache.rearranged(CacheShape(4, 2, 4, 128), (2, 0, -1, 7))
    for row, source in ((0, 2), (1, 0)):
        np.testing.assert_array_equal(moved.keys.array[row, ..., :64], cache.keys.array[source])
        np.testing.assert_array_equal(moved.values.array[row, :, :64], cache.values.array[source])
        assert not moved.keys.array[row, ..., 64:].any()
        assert not moved.values.array[row, :, 64:].any()
    assert not moved.keys.array[2:].any()
    smaller = moved.rearranged(CacheShape(1, 2, 4, 64), (1,))
    np.testing.assert_array_equal(smaller.keys.array[0], cache.keys.array[0])
