"""ONNX Runtime on processors: a session per block, and a cache that it reads in place.

Inside a worker. Inputs, outputs and cache are NumPy arrays whose addresses the sessions are bound
to, so nothing is copied around a forward but the new keys and values.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.ort_cache import HostCache
from runtime.backends.ort_session import open_session, run
from runtime.backends.protocol import FloatArray, StepInputs
from scheduler.errors import EngineError
from scheduler.slots import kv_capacity


class OrtBackend:
    """Blocks and lm_head on a provider that computes in host memory: `kind` cpu or openvino.

    `threads` are those of this stage; idle ones sleep.
    """

    def __init__(self, kind: str, threads: int, kv_heads: int, head_dim: int) -> None:
        self._kind = kind
        self._threads = threads
        self._kv_heads = kv_heads
        self._head_dim = head_dim
        self._blocks: list[_Block] = []
        self._lm_head: Any = None
        self._arrays: dict[str, FloatArray] = {}
        self._caches: dict[int, list[HostCache]] = {}  # by group, then by block

    def load_block(self, path: Path) -> None:
        """Append the block in this file to the run of blocks."""
        self._blocks.append(_Block(open_session(path, self._kind, self._threads), path.name))

    def load_lm_head(self, path: Path) -> None:
        """Load the final norm and vocabulary projection."""
        self._lm_head = open_session(path, self._kind, self._threads)

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        """Shape a group's cache; blocks change one after another, so that few bytes are twice."""
        caches = self._caches.setdefault(group, [self._cache(0, 0) for _ in self._blocks])
        for number, cache in enumerate(caches):
            if cache.shape != (rows, capacity) or list(sources) != list(range(rows)):
                caches[number] = cache.rearranged(self._cache(rows, capacity), sources)

    def drop(self, group: int) -> None:
        """Give back the memory of a group's cache."""
        self._caches.pop(group, None)

    def decode(self, group: int, inputs: StepInputs, write_at: Sequence[int]) -> FloatArray:
        """Run all blocks over a group; shapes as in `Backend.decode`."""
        step = _Forward(self, "decode", inputs)
        writes = [(row, start) for row, start in enumerate(write_at) if start >= 0]
        for block, cache in zip(self._blocks, self._caches[group], strict=True):
            step.run(block, cache)
            for row, start in writes:
                cache.store(row, start, step.new_k[row], step.new_v[row])
        return step.x

    def settle(self) -> None:
        """Nothing is put off."""

    def prefill(
        self, group: int, row: int, cached: int, inputs: StepInputs
    ) -> Generator[None, None, FloatArray]:
        """Run all blocks over one row; shapes as in `Backend.prefill`."""
        past = self._cache(1, kv_capacity(cached))
        step = _Forward(self, "prefill", inputs)
        for number, block in enumerate(self._blocks):
            cache = self._caches[group][number]
            cache.copy_row(row, cached, past)
            step.run(block, past)
            # The group may have been arranged anew since the last block.
            cache.store(row, cached, step.new_k[0], step.new_v[0])
            yield
        result = step.x
        for name in [name for name in self._arrays if name.startswith("prefill")]:
            del self._arrays[name]
        return result

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of hidden states [rows, hidden_size]."""
        if self._lm_head is None:
            raise EngineError("this stage holds no lm_head.")
        vocabulary = self._lm_head.get_outputs()[0].shape[-1]
        x = np.ascontiguousarray(hidden[:, None, :], np.float32)
        logits = self.array("lm_head logits", (len(hidden), 1, vocabulary))
        _run(self._lm_head, {"x": x}, {"logits": logits}, "lm_head")
        return logits[:, 0]

    def array(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """The array of this name; a new one only for a new shape."""
        held = self._arrays.get(name)
        if held is None or held.shape != shape:
            held = self._arrays[name] = np.empty(shape, np.float32)
        return held

    def new_shapes(self, rows: int, tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of new keys and new values."""
        heads, dim = self._kv_heads, self._head_dim
        return (rows, heads, dim, tokens), (rows, heads, tokens, dim)

    def _cache(self, rows: int, capacity: int) -> HostCache:
        return HostCache(*self.new_shapes(rows, capacity))


class _Forward:
    """One pass over the blocks; `x`, `new_k` and `new_v` are what the last block returned."""

    def __init__(self, backend: OrtBackend, use: str, inputs: StepInputs) -> None:
        rows, tokens, _ = inputs.hidden.shape
        keys, values = backend.new_shapes(rows, tokens)
        self.new_k = backend.array(f"{use} new_k", keys)
        self.new_v = backend.array(f"{use} new_v", values)
        # Two arrays take turns as a block's input and output.
        self.x = backend.array(f"{use} x", inputs.hidden.shape)
        self._y = backend.array(f"{use} y", inputs.hidden.shape)
        self.x[...] = inputs.hidden
        self._steady = {
            name: np.ascontiguousarray(getattr(inputs, name), np.float32)
            for name in ("mask", "cos", "sin")
        }

    def run(self, block: _Block, cache: HostCache) -> None:
        inputs = {"x": self.x, **self._steady, "past_k": cache.keys, "past_v": cache.values}
        outputs = {"y": self._y, "new_k": self.new_k, "new_v": self.new_v}
        _run(block.session, inputs, outputs, block.name)
        self.x, self._y = self._y, self.x


class _Block:
    """One loaded block."""

    def __init__(self, session: Any, name: str) -> None:
        self.session = session
        self.name = name


def _run(
    session: Any, inputs: dict[str, FloatArray], outputs: dict[str, FloatArray], what: str
) -> None:
    """Run on the memory of these arrays, which the caller keeps alive and contiguous."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    run(session, binding, what)
