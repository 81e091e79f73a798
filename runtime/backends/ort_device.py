"""ONNX Runtime on devices with memory of their own: weights, cache and hidden states stay there.

Inside a worker. Host memory sees a stage's input once, and its output once. Between blocks, hidden
states are values that only the device holds. In a decode step each block writes its new keys and
values into its cache, in place; a prompt's are put there by `CacheMaker`.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends import ort_graphs
from runtime.backends.ort_device_cache import CacheMaker, DeviceCache, GroupShape
from runtime.backends.ort_device_run import DeviceRun
from runtime.backends.ort_session import run_once
from runtime.backends.protocol import FloatArray, StepInputs
from scheduler.errors import EngineError
from scheduler.slots import kv_capacity

_STEADY = ("mask", "cos", "sin")


class OrtDeviceBackend:
    """Blocks and lm_head on a GPU provider: `kind` webgpu, cuda or directml.

    With `half_arithmetic`, weights stored as fp16 are multiplied as fp16 where the device can.
    `limit_bytes` of the device's memory are for this stage.
    """

    def __init__(
        self,
        kind: str,
        threads: int,
        kv_heads: int,
        head_dim: int,
        half_arithmetic: bool,
        limit_bytes: int | None = None,
    ) -> None:
        self._run = DeviceRun(kind, threads, limit_bytes)
        self._maker = CacheMaker(self._run, kv_heads, head_dim)
        self._copies = self._run.open(ort_graphs.copies({"x": 3, "mask": 4, "cos": 4, "sin": 4}))
        self._half = half_arithmetic and self._multiplies_in_half()
        self._blocks: list[_Block] = []
        self._lm_head: Any = None
        self._caches: dict[int, list[DeviceCache]] = {}  # by group, then by block
        self._prompt: dict[str, Any] = {}  # what a prefill holds on the device between two blocks
        self._empty = self._maker.rearranged(
            self._maker.nothing, GroupShape(1, kv_capacity(0)), [-1]
        )
        # Device values that outlive the last session end the process in ONNX Runtime 1.27.
        atexit.register(_close, weakref.ref(self))

    def _multiplies_in_half(self) -> bool:
        """Whether the device multiplies fp16: WebGPU has it as an option (shader-f16)."""
        try:
            session = self._run.open(ort_graphs.half_product())
            return bool((run_once(session, x=np.ones((1, 32), np.float32))["y"] == 32).all())
        except EngineError:  # whatever the driver says: the device lacks it
            return False

    def close(self) -> None:
        """Give back what the device holds; nothing can be run afterwards."""
        self._caches.clear()
        self._prompt.clear()
        self._empty.values.clear()
        self._maker.nothing.values.clear()

    def __del__(self) -> None:
        if hasattr(self, "_empty"):
            self.close()

    def load_block(self, path: Path) -> None:
        """Append the block in this file to the run of blocks."""
        model = ort_graphs.device_block(path, self._half)
        weights = ort_graphs.weights_bytes(path)
        self._blocks.append(_Block(self._run.open(model, path.parent, weights), path.name))

    def load_lm_head(self, path: Path) -> None:
        """Load the final norm and vocabulary projection."""
        model, weights = ort_graphs.device_lm_head(path, self._half), ort_graphs.weights_bytes(path)
        self._lm_head = self._run.open(model, path.parent, weights)

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        """Shape a group's cache; blocks change one after another, so that few bytes are twice."""
        shape = GroupShape(rows, capacity)
        caches = self._caches.setdefault(group, [self._maker.nothing] * len(self._blocks))
        for number, cache in enumerate(caches):
            if cache is self._maker.nothing:
                caches[number] = self._maker.rearranged(cache, shape, [-1] * rows)
            elif cache.shape != shape or list(sources) != list(range(rows)):
                caches[number] = self._maker.rearranged(cache, shape, sources)

    def drop(self, group: int) -> None:
        """Give back the memory of a group's cache."""
        self._caches.pop(group, None)

    def decode(self, group: int, inputs: StepInputs, write_at: Sequence[int]) -> FloatArray:
        """Run all blocks over a group; shapes as in `Backend.decode`."""
        caches = self._caches[group]
        x, steady = self._copied(inputs)
        nobody = max(write_at) < 0
        where = _NOWHERE if nobody else self._maker.write_one(caches[0].shape, write_at)
        for number, (block, cache) in enumerate(zip(self._blocks, caches, strict=True)):
            written = self._maker.nothing if nobody else cache
            given = {"x": x, **steady, **_named("past", cache), **_named("cache", written), **where}
            x = self._run(
                block.session,
                given,
                ["y"],
                block.name,
                in_place=_named("next", written),
                to_host=self._last(number),
            )[0]
        result: FloatArray = x.numpy()
        return result

    def settle(self) -> None:
        """Nothing is put off."""

    def prefill(
        self, group: int, row: int, cached: int, inputs: StepInputs
    ) -> Generator[None, None, FloatArray]:
        """Run all blocks over one row; shapes as in `Backend.prefill`."""
        held, tokens = self._prompt, inputs.hidden.shape[1]
        held["x"], held["steady"] = self._copied(inputs)
        shape: GroupShape | None = None
        nothing = self._maker.nothing
        for number, block in enumerate(self._blocks):
            cache = self._caches[group][number]
            past = self._empty
            if cached:
                size = GroupShape(1, kv_capacity(cached))
                past = self._maker.rearranged(cache, size, [row])
            given = {"x": held["x"], **held["steady"], **_named("past", past), **_NOWHERE}
            held["x"], new_k, new_v = self._run(
                block.session,
                given | _named("cache", nothing),
                ["y", "new_k", "new_v"],
                block.name,
                in_place=_named("next", nothing),
                to_host=self._last(number),
                # Each block would keep the scratch of its longest prompt.
                gives_back=True,
            )
            if cache.shape != shape:  # the group may have been arranged anew since the last block
                shape = cache.shape
                held["keep"] = self._maker.keep_masks(shape, row, cached, tokens)
            new = {"k": new_k, "v": new_v}
            self._maker.place(cache, new, held["keep"], row, cached, tokens)
            del past, given, new, new_k, new_v
            yield
        result: FloatArray = held["x"].numpy()
        held.clear()
        return result

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of hidden states [rows, hidden_size]."""
        if self._lm_head is None:
            raise EngineError("this stage holds no lm_head.")
        given = {"x": hidden[:, None, :]}
        logits = self._run(self._lm_head, given, ["logits"], "lm_head", to_host="logits")[0]
        result: FloatArray = logits.numpy()[:, 0]
        return result

    def _last(self, number: int) -> str | None:
        """The output that leaves the device behind this block."""
        return "y" if number + 1 == len(self._blocks) else None

    def _copied(self, inputs: StepInputs) -> tuple[Any, dict[str, Any]]:
        """Hidden states, and what all blocks read alike, on the device."""
        given = {"x": inputs.hidden} | {name: getattr(inputs, name) for name in _STEADY}
        outputs = [f"on_device.{name}" for name in given]
        x, *steady = self._run(self._copies, given, outputs, "the copy of its input")
        return x, dict(zip(_STEADY, steady, strict=True))


class _Block:
    """One loaded block."""

    def __init__(self, session: Any, name: str) -> None:
        self.session = session
        self.name = name


# The first new value goes to the first slot of a cache that nobody reads.
_NOWHERE = {f"picks_{side}": np.zeros(1, np.int64) for side in "kv"} | {
    f"slots_{side}": np.zeros((1, 1), np.int64) for side in "kv"
}


def _named(prefix: str, cache: DeviceCache) -> dict[str, Any]:
    return {f"{prefix}_{side}": value for side, value in cache.values.items()}


def _close(backend: weakref.ref[OrtDeviceBackend]) -> None:
    alive = backend()
    if alive is not None:
        alive.close()
