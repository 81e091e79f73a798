"""MNN: runtime managers, modules, and a cache in the memory that MNN reads.

Inside a worker, the only module that touches MNN.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import MNN
import numpy as np
from MNN import expr, nn

from runtime.backends.protocol import FloatArray
from scheduler.errors import EngineError

BLOCK_INPUTS = ["x", "mask", "cos", "sin", "past_k", "past_v"]
BLOCK_OUTPUTS = ["y", "new_k", "new_v"]
# Low memory keeps int8 and int4 weights as they are (activations are quantised per token); without
# it MNN expands them to fp32. It changes nothing for fp16 and fp32 files.
_LOW_MEMORY = 2

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def runtime_manager(kind: str, threads: int) -> Any:
    """MNN's runtime manager of a stage on this kind of backend (cpu, cuda, ...)."""
    # A GPU stage is planned for fp16 arithmetic; on a CPU (ARM) it would change answers.
    precision = "high" if kind == "cpu" else "low"
    return nn.create_runtime_manager(
        (
            {
                "backend": kind.upper(),
                "numThread": threads,
                "precision": precision,
                "memory": _LOW_MEMORY,
            },
        )
    )


class MnnBackend:
    """Blocks and lm_head behind one MNN runtime manager; the cache is host memory read in place.

    `kind` is MNN's backend name in lower case (cpu, cuda, ...). One per process: MNN shares threads
    and hints between managers.
    """

    def __init__(self, kind: str, threads: int, kv_heads: int, head_dim: int) -> None:
        self._kv_heads = kv_heads
        self._head_dim = head_dim
        self._manager = runtime_manager(kind, threads)
        self._blocks: list[_Block] = []
        self._lm_head: Any = None
        self._inputs: dict[str, _HostVar] = {}
        self._capacity = 0
        self._rows = 0

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

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for `capacity` tokens in each of `rows` sequences; what is cached stays."""
        if rows == self._rows and capacity == self._capacity:
            return
        for block in self._blocks:
            block.resize_cache(self._keys_shape(rows, capacity))
        self._rows, self._capacity = rows, capacity

    def forward(
        self,
        hidden: FloatArray,
        mask: FloatArray,
        cos: FloatArray,
        sin: FloatArray,
        write_at: list[int],
        capacity_after: int,
    ) -> FloatArray:
        """Run all blocks; shapes as in `Backend.forward`."""
        steady = [self._input("mask", mask), self._input("cos", cos), self._input("sin", sin)]
        x = self._input("x", hidden)
        for block in self._blocks:
            x = self._run_block(block, [x, *steady], write_at, capacity_after)
        self._capacity = capacity_after
        return np.array(_view(x), copy=True)

    def _run_block(
        self, block: _Block, inputs: list[Any], write_at: list[int], capacity_after: int
    ) -> Any:
        """One block's hidden states; its keys and values are stored before the next one runs."""
        assert block.past_k is not None
        assert block.past_v is not None
        outputs = block.module.onForward([*inputs, block.past_k.var, block.past_v.var])
        if len(outputs) != len(BLOCK_OUTPUTS):
            raise EngineError(
                f"MNN failed in {block.name} with room for {self._capacity} tokens in each of"
                f" {self._rows} rows; most likely the device ran out of memory."
            )
        y, new_k, new_v = outputs
        if capacity_after != self._capacity:
            block.resize_cache(self._keys_shape(self._rows, capacity_after))
        block.store(_view(new_k), _view(new_v), write_at)
        return y

    def _keys_shape(self, rows: int, capacity: int) -> tuple[int, int, int, int]:
        return rows, self._kv_heads, self._head_dim, capacity

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of hidden states [rows, hidden_size]."""
        x = self._input("lm_head_x", hidden[:, None, :])
        outputs = self._lm_head.onForward([x])
        if not outputs:
            raise EngineError("MNN failed in lm_head; most likely the device ran out of memory.")
        return np.array(_view(outputs[0]), copy=True)[:, -1, :]

    def _input(self, name: str, value: FloatArray) -> Any:
        """The Var for this input; a new one only for a new shape, since MNN then re-plans."""
        held = self._inputs.get(name)
        if held is None or held.array.shape != value.shape:
            held = self._inputs[name] = _HostVar(value.shape)
        held.array[...] = value
        return held.var


class _HostVar:
    """An MNN input and a writable NumPy view of its memory; they live and die together."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.var = expr.const(np.zeros(shape, np.float32), list(shape), expr.NCHW, expr.float)
        self.array = _view(self.var)


class _Block:
    """One loaded block and its cache.

    Keys are [rows, kv_heads, head_dim, capacity], values [rows, kv_heads, capacity, head_dim].
    """

    def __init__(self, module: Any, name: str) -> None:
        self.module = module
        self.name = name
        self.past_k: _HostVar | None = None
        self.past_v: _HostVar | None = None

    def resize_cache(self, keys_shape: tuple[int, int, int, int]) -> None:
        rows, heads, head_dim, capacity = keys_shape
        keys, values = _HostVar(keys_shape), _HostVar((rows, heads, capacity, head_dim))
        if self.past_k is not None and self.past_v is not None:
            old_k, old_v = self.past_k.array, self.past_v.array
            rows, slots = min(old_k.shape[0], rows), min(old_k.shape[3], capacity)
            keys.array[:rows, :, :, :slots] = old_k[:rows, :, :, :slots]
            values.array[:rows, :, :slots] = old_v[:rows, :, :slots]
        self.past_k, self.past_v = keys, values

    def store(self, new_k: FloatArray, new_v: FloatArray, write_at: list[int]) -> None:
        assert self.past_k is not None
        assert self.past_v is not None
        tokens = new_v.shape[2]
        for row, start in enumerate(write_at):
            self.past_k.array[row, :, :, start : start + tokens] = new_k[row]
            self.past_v.array[row, :, start : start + tokens] = new_v[row]


def _view(var: Any) -> FloatArray:
    """A view of a Var's memory, valid while the Var lives (read() gives one without owner)."""
    shape = tuple(var.shape)
    capsule = var.ptr
    address = _get_pointer(capsule, _get_name(capsule))
    memory = (ctypes.c_float * math.prod(shape)).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape)
