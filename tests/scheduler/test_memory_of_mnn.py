"""What the planner counts for a block on the CPU, against the resident memory of the real MNN."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from runtime.export.block_graph import write_block
from runtime.export.converter import Encoding, convert
from runtime.export.decoder_config import DecoderConfig, spec_of
from runtime.export.decoder_graph import write_decoder_block
from runtime.export.weights import BlockWeights, Linear, Norm
from runtime.rotary import Rotary
from scheduler.memory import (
    MODULE_BYTES,
    held_block_bytes,
    kv_cache_bytes,
    loading_bytes,
    running_bytes,
)
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from tests.runtime.export.test_decoder_graph import random_weights

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident memory is read from /proc"
)

REPOSITORY = Path(__file__).parents[2]
HIDDEN, HEADS, TOKENS, BLOCKS = 1024, 8, 1024, 7
_LEAST_USED = 0.95
SPEC = ModelSpec(
    name="test",
    family="chatglm",
    hidden_size=HIDDEN,
    ffn_size=4 * HIDDEN,
    blocks=BLOCKS,
    heads=HEADS,
    kv_heads=HEADS,
    head_dim=HIDDEN // HEADS,
    vocab_size=HIDDEN,
    max_context=2048,
    norm="layer",
    gated_mlp=False,
    qkv_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    norms_per_block=2,
    tied_embeddings=True,
)

CAUSAL = DecoderConfig(
    name="test",
    family="llama",
    hidden_size=HIDDEN,
    ffn_size=3 * HIDDEN,
    blocks=BLOCKS,
    heads=HEADS,
    kv_heads=HEADS // 2,
    head_dim=HIDDEN // HEADS,
    vocab_size=HIDDEN,
    max_context=2048,
    norm="rms",
    norm_epsilon=1e-5,
    activation="silu",
    gated_mlp=True,
    rotary=Rotary("halves", HIDDEN // HEADS),
    stop_ids=(2,),
)

# Prints resident bytes: after one block, after seven, the most while the seventh was loading, and
# the most during one prefill of them all; all in a process that is set up as a worker is.
CHILD = """
import os, sys
from pathlib import Path
answer = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import numpy as np
from runtime.allocator import return_freed_memory
from runtime.backends.mnn import MnnBackend
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
backend = MnnBackend("cpu", 1, kv_heads, dim)
backend.load_block(Path(path))
first = resident("VmRSS")
for _ in range(6):
    forget_peak()
    backend.load_block(Path(path))
loaded, loading = resident("VmRSS"), resident("VmHWM")
states = np.random.default_rng(0).standard_normal((tokens, hidden)).astype("f")
stage = Stage(backend, Rotary(pairing, dim), 2 * tokens)
before = resident("VmRSS")
forget_peak()
stage.arrange(0, 1, kv_capacity(tokens), [-1])
for new, cached in prefill_forwards(family, tokens):
    row = Row(cached) if cached or new < tokens else Row(0, tokens - 1, tokens - 2)
    finished(stage.prefill(0, 0, row, states[cached : cached + new]))
os.write(answer, repr([first, loaded, loading, resident("VmHWM") - before]).encode())
"""


def resident_bytes(child: str, path: Path, spec: ModelSpec, pairing: str) -> list[int]:
    """What a process that runs this code finds: bytes at four moments."""
    sizes = (spec.hidden_size, spec.kv_heads, spec.head_dim, TOKENS)
    done = subprocess.run(
        [sys.executable, "-c", child, str(path), spec.family, pairing, *map(str, sizes)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    numbers: list[int] = json.loads(done.stdout)
    return numbers


@pytest.fixture(scope="module")
def block_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)

    def linear(rows: int, inner: int) -> Linear:
        weight = random.standard_normal((rows, inner), dtype=np.float32) * np.float32(0.02)
        return Linear(weight=weight, bias=np.zeros(rows, np.float32))

    def norm() -> Norm:
        return Norm(weight=np.ones(HIDDEN, np.float32), bias=np.zeros(HIDDEN, np.float32))

    path = tmp_path_factory.mktemp("block") / "block.onnx"
    weights = BlockWeights(
        input_norm=norm(),
        query_key_value=linear(3 * HIDDEN, HIDDEN),
        dense=linear(HIDDEN, HIDDEN),
        post_attention_norm=norm(),
        up=linear(4 * HIDDEN, HIDDEN),
        down=linear(HIDDEN, 4 * HIDDEN),
    )
    write_block(path, weights, heads=HEADS, layernorm_epsilon=1e-5)
    return path


@pytest.mark.parametrize(
    ("precision", "weight_block"), [("fp32", None), ("fp16", None), ("int8", None), ("int4", 128)]
)
def test_blocks_take_what_is_planned(
    block_onnx: Path, tmp_path: Path, precision: Precision, weight_block: int | None
) -> None:
    mnn = tmp_path / "block.mnn"
    convert(block_onnx, mnn, Encoding(precision, weight_block), 0, Event())
    first, loaded, loading, grown = resident_bytes(CHILD, mnn, SPEC, "two_halves")
    held = held_block_bytes(SPEC, precision, "cpu")
    assert held * 0.98 < (loaded - first) / 6 < held + 2 * MODULE_BYTES
    copies = loading_bytes(SPEC, "cpu", 1, precision, None)
    assert copies * 0.9 < loading - loaded < copies + MODULE_BYTES
    cache = kv_cache_bytes(SPEC, BLOCKS, TOKENS, 1, 4)
    planned = cache + running_bytes(SPEC, "cpu", BLOCKS, precision, TOKENS, 1, 1)
    inputs = 4 << 20  # mask, tables and small buffers, within what a worker is planned to take
    assert planned * _LEAST_USED < grown < planned + inputs


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_causal_prompt_takes_what_is_planned_for_its_chunks(
    tmp_path: Path, precision: Precision
) -> None:
    write_decoder_block(tmp_path / "block.onnx", random_weights(CAUSAL), CAUSAL, 0)
    convert(tmp_path / "block.onnx", tmp_path / "block.mnn", Encoding(precision), 0, Event())
    spec = spec_of(CAUSAL)
    *_, grown = resident_bytes(CHILD, tmp_path / "block.mnn", spec, "halves")
    cache = kv_cache_bytes(spec, BLOCKS, TOKENS, 1, 4)
    planned = cache + running_bytes(spec, "cpu", BLOCKS, precision, TOKENS, 1, 1)
    inputs = 2 << 20
    assert planned * _LEAST_USED < grown < planned + inputs
