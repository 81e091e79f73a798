"""What the planner counts for `ort:cpu`, against the resident memory of the real ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.export.decoder_config import spec_of
from runtime.export.decoder_graph import write_decoder_block
from runtime.export.exporter import export_bundle
from runtime.export.ort_encode import encode
from runtime.export.ort_encodings import ort_encodings
from runtime.export.request import ExportRequest
from scheduler.memory import MODULE_BYTES, held_block_bytes, kv_cache_bytes, running_bytes
from scheduler.model import block_bytes
from scheduler.plan import Precision
from scheduler.units import MIB
from tests.bench.decode_growth import measured
from tests.runtime.export.test_decoder_graph import random_weights
from tests.scheduler.test_memory_of_mnn import (
    BLOCKS,
    CAUSAL,
    SPEC,
    TOKENS,
    block_onnx,
    resident_bytes,
)
from tests.support.tiny import TINY_CHECKPOINT

__all__ = ["block_onnx"]  # a fixture

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident memory is read from /proc"
)

# Prints bytes: held by one block and by seven after a short prompt, the most while the seventh was
# loading over what it holds then, and what a prompt of all tokens added; in a process that is set
# up as a worker is. Pages of mapped weights count as soon as they were read.
CHILD = """
import sys
from pathlib import Path
import numpy as np
from runtime.allocator import return_freed_memory
from runtime.backends.ort import OrtBackend
from runtime.stage import Stage, finished
from runtime.rotary import Rotary
from runtime.step_inputs import Row
from scheduler.slots import kv_capacity, prefill_forwards

def resident(key):
    status = Path("/proc/self/status").read_text().split(key + ":")[1]
    return int(status.split()[0]) * 1024

def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")

return_freed_memory()
path, family, pairing = sys.argv[1:4]
hidden, kv_heads, dim, tokens = map(int, sys.argv[4:])
backend = OrtBackend("cpu", 1, kv_heads, dim)
states = np.random.default_rng(0).standard_normal((tokens, hidden)).astype("f")

def prompt(count):
    stage = Stage(backend, Rotary(pairing, dim), 2 * tokens)
    stage.arrange(0, 1, kv_capacity(count), [-1])
    for new, cached in prefill_forwards(family, count):
        row = Row(cached) if cached or new < count else Row(0, count - 1, count - 2)
        finished(stage.prefill(0, 0, row, states[cached : cached + new]))
    return stage

backend.load_block(Path(path))
prompt(8).drop(0)
first = resident("VmRSS")
for _ in range(6):
    before_block = resident("VmRSS")
    forget_peak()
    backend.load_block(Path(path))
    loading = resident("VmHWM") - before_block
prompt(8).drop(0)
loaded = resident("VmRSS")
forget_peak()
prompt(tokens)
print([first, loaded, loading, resident("VmHWM") - loaded])
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_blocks_take_what_is_planned(
    block_onnx: Path, tmp_path: Path, precision: Precision
) -> None:
    path = encode(block_onnx, tmp_path / "b.onnx", *ort_encodings(SPEC, (precision,), None))[0]
    first, loaded, loading, grown = resident_bytes(CHILD, path, SPEC, "two_halves")
    held = held_block_bytes(SPEC, precision, "ort")
    assert held * 0.97 < (loaded - first) / 6 < held + 3 * MODULE_BYTES
    mapped = block_bytes(SPEC, precision)  # read while loading, and dropped
    assert loading < held + mapped + 2 * MODULE_BYTES
    cache = kv_cache_bytes(SPEC, BLOCKS, TOKENS, 1, 4)
    planned = cache + running_bytes(SPEC, "ort", BLOCKS, precision, TOKENS, 1, 1)
    assert planned * 0.92 < grown < planned + 2 * MIB


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_causal_prompt_takes_what_is_planned_for_its_chunks(
    tmp_path: Path, precision: Precision
) -> None:
    spec = spec_of(CAUSAL)
    write_decoder_block(tmp_path / "block.onnx", random_weights(CAUSAL), CAUSAL, 0)
    encodings = ort_encodings(spec, (precision,), None)
    path = encode(tmp_path / "block.onnx", tmp_path / "b.onnx", *encodings)[0]
    *_, grown = resident_bytes(CHILD, path, spec, "halves")
    cache = kv_cache_bytes(spec, BLOCKS, TOKENS, 1, 4)
    planned = cache + running_bytes(spec, "ort", BLOCKS, precision, TOKENS, 1, 1)
    assert planned * 0.92 < grown < planned + 3 * MIB


def test_a_stage_does_not_grow_while_it_decodes(tmp_path: Path) -> None:
    """`tests.bench.decode_growth` does 2,000 steps."""
    bundle = tmp_path / "bundle"
    export_bundle(ExportRequest(TINY_CHECKPOINT, bundle, ("int4",), engines=("ort",)))
    early, late = measured(bundle, "ort:cpu", "int4", 100, [20, 320])
    assert late - early < MIB // 4
