"""MNN: runtime managers and modules, inside a worker."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import MNN
import numpy as np
from MNN import nn

from runtime.backends.mnn_cache import BlockCache, CacheShape, HostVar
from runtime.backends.protocol import FloatArray, StepInputs
from scheduler.errors import EngineError
from scheduler.slots import kv_capacity

BLOCK_INPUTS = ["x", "mask", "cos", "sin", "past_k", "past_v"]
BLOCK_OUTPUTS = ["y", "new_k", "new_v"]
# Low memory keeps int8 and int4 weights as they are (activations are quantised per token); without
# it MNN expands them to fp32. It changes nothing for fp16 and fp32 files.
_LOW_MEMORY = 2
_DYNAMIC_QUANT_OPTIONS, _SCALE_PER_TOKEN, _SCALE_PER_GROUP = 5, 0, 2  # MNN's hint and values


def runtime_manager(kind: str, threads: int, fine_scales: bool = False) -> Any:
    """MNN's runtime manager of a stage on this kind of backend (cpu, cuda, ...).

    With `fine_scales`, activations get a scale for every group of weights, not one per token. Four
    rows or more are then rounded otherwise than fewer (docs/runtime.md).
    """
    # A GPU stage is planned for fp16 arithmetic; on a CPU (ARM) it would change answers.
    precision = "high" if kind == "cpu" else "low"
    manager = nn.create_runtime_manager(
        (
            {
                "backend": kind.upper(),
                "numThread": threads,
                "precision": precision,
                "memory": _LOW_MEMORY,
            },
        )
    )
    # Always set, since it holds for all managers of the process.
    manager.set_hint(_DYNAMIC_QUANT_OPTIONS, _SCALE_PER_GROUP if fine_scales else _SCALE_PER_TOKEN)
    return manager


class MnnBackend:
    """Blocks and lm_head behind one MNN runtime manager; the cache is host memory read in place.

    `kind` is MNN's backend name in lower case (cpu, cuda, ...). One per process: MNN shares threads
    and hints between managers.
    """

    def __init__(
        self, kind: str, threads: int, kv_heads: int, head_dim: int, fine_scales: bool = False
    ) -> None:
        self._kv_heads = kv_heads
        self._head_dim = head_dim
        self._manager = runtime_manager(kind, threads, fine_scales)
        self._blocks: list[_Block] = []
        self._lm_head: Any = None
        self._inputs: dict[str, HostVar] = {}
        self._caches: dict[int, list[BlockCache]] = {}  # by group, then by block
        self._shapes: dict[int, CacheShape] = {}
        self._unsaved: list[tuple[BlockCache, Any, Any]] = []  # with new keys and new values
        self._unsaved_at: list[tuple[int, int]] = []  # row, slot
        self._empty: BlockCache | None = None
        self._copied: BlockCache | None = None

    def load_block(self, path: Path) -> None:
        """Append the block in this file to the run of blocks."""
        self._blocks.append(_Block(self._load(path, BLOCK_INPUTS, BLOCK_OUTPUTS), path.name))

    def load_lm_head(self, path: Path) -> None:
        """Load the final norm and vocabulary projection."""
        self._lm_head = self._load(path, ["x"], ["logits"])

    def _load(self, path: Path, inputs: list[str], outputs: list[str]) -> Any:
        try:
            return nn.load_module_from_file(
                str(path),
                inputs,
                outputs,
                runtime_manager=self._manager,
                shape_mutable=True,
                rearrange=True,  # repack the weights and drop the original copy
            )
        except SystemError as error:
            raise EngineError(
                f"MNN {MNN.version()} cannot load {path}: the file is damaged or memory ran out."
                " Check it with a fresh export, or plan fewer blocks for this device."
            ) from error

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        """Shape a group's cache; blocks change one after another, so that few bytes are twice."""
        self.settle()
        shape = self._shape(rows, capacity)
        caches = self._caches.get(group)
        if caches is None:
            self._caches[group] = [BlockCache(shape) for _ in self._blocks]
        elif shape != self._shapes[group] or list(sources) != list(range(rows)):
            for number, cache in enumerate(caches):
                caches[number] = cache.rearranged(shape, sources)
        self._shapes[group] = shape

    def drop(self, group: int) -> None:
        """Give back the memory of a group's cache."""
        self._caches.pop(group, None)
        self._shapes.pop(group, None)

    def decode(self, group: int, inputs: StepInputs, write_at: Sequence[int]) -> FloatArray:
        """Run all blocks over a group; shapes as in `Backend.decode`."""
        self.settle()
        steady = self._steady("decode", inputs)
        x = self._input("decode x", inputs.hidden)
        unsaved = []
        for block, cache in zip(self._blocks, self._caches[group], strict=True):
            x, new_k, new_v = block.run([x, *steady, cache.keys.var, cache.values.var])
            unsaved.append((cache, new_k, new_v))
        self._unsaved = unsaved
        self._unsaved_at = [(row, start) for row, start in enumerate(write_at) if start >= 0]
        self._result = x  # owns what is returned
        return cast(FloatArray, x.read())

    def settle(self) -> None:
        """Write the keys and values of the last decode step, as `Backend.settle`."""
        for cache, new_k, new_v in self._unsaved:
            # Fresh Vars hold the arrays that read() shows without owning them.
            keys, values = new_k.read(), new_v.read()
            for row, start in self._unsaved_at:
                cache.store(row, start, keys[row], values[row])
        self._unsaved = []

    def prefill(
        self, group: int, row: int, cached: int, inputs: StepInputs
    ) -> Generator[None, None, FloatArray]:
        """Run all blocks over one row; shapes as in `Backend.prefill`."""
        self.settle()
        past = self._past(cached)
        steady = self._steady("prefill", inputs)
        x = self._input("prefill x", inputs.hidden)
        for number, block in enumerate(self._blocks):
            cache = self._caches[group][number]
            if cached:
                cache.copy_row(row, cached, past)
            y, new_k, new_v = block.run([x, *steady, past.keys.var, past.values.var])
            cache.store(row, cached, new_k.read()[0], new_v.read()[0])
            # The module may compute another shape before the next block reads this.
            x = self._input("prefill x", y.read())
            del y, new_k, new_v
            yield
        result: FloatArray = np.array(self._inputs["prefill x"].array)
        for name in ("prefill x", "prefill mask", "prefill cos", "prefill sin"):
            del self._inputs[name]
        return result

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of hidden states [rows, hidden_size]."""
        outputs = self._lm_head.onForward([self._input("lm_head x", hidden[:, None, :])])
        if not outputs:
            raise EngineError("MNN failed in lm_head; most likely the device ran out of memory.")
        self._result = outputs[0]
        logits: FloatArray = outputs[0].read()
        return logits[:, -1, :]

    def _past(self, cached: int) -> BlockCache:
        """What one row of one block is copied to for a prefill; masked zeros where it is empty."""
        shape = self._shape(1, kv_capacity(cached))
        if not cached:
            self._empty = self._empty or BlockCache(shape)
            return self._empty
        # Modules hold what they read last, so a new copy for every chunk would be there twice.
        if self._copied is None or self._copied.shape != shape:
            self._copied = BlockCache(shape)
        return self._copied

    def _shape(self, rows: int, capacity: int) -> CacheShape:
        return CacheShape(rows, self._kv_heads, self._head_dim, capacity)

    def _steady(self, use: str, inputs: StepInputs) -> list[Any]:
        return [
            self._input(f"{use} {name}", getattr(inputs, name)) for name in ("mask", "cos", "sin")
        ]

    def _input(self, name: str, value: FloatArray) -> Any:
        """The Var for this input; a new one only for a new shape, since MNN then re-plans."""
        held = self._inputs.get(name)
        if held is None or held.array.shape != value.shape:
            held = self._inputs[name] = HostVar(value.shape)
        held.array[...] = value
        return held.var


class _Block:
    """One loaded block."""

    def __init__(self, module: Any, name: str) -> None:
        self._module = module
        self._name = name

    def run(self, inputs: list[Any]) -> list[Any]:
        """Hidden states, new keys and new values."""
        outputs: list[Any] = self._module.onForward(inputs)
        if len(outputs) != len(BLOCK_OUTPUTS):
            rows, _, _, capacity = inputs[4].shape
            raise EngineError(
                f"MNN failed in {self._name} with room for {capacity} tokens in each of {rows}"
                " rows; most likely the device ran out of memory."
            )
        return outputs
