"""The article's graphs on MNN: each block takes its whole history and returns it longer.

Names, types and the width of a head are what the files themselves declare.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import MNN
import numpy as np
import numpy.typing as npt
from MNN import expr, nn

from runtime.backends.mnn import runtime_manager
from runtime.backends.protocol import FloatArray
from scheduler.errors import EngineError

BLOCK_INPUTS = ("inputs_embeds", "attention_mask", "position_ids", "past_key_values")
BLOCK_OUTPUTS = ("hidden_states", "presents")

IntArray = npt.NDArray[np.int32]


class ArticleBackend:
    """`glm_block_*.mnn` and `lm.mnn` behind one MNN runtime manager.

    `kind` as for `MnnBackend`. `past_key_values` [2, tokens, 1, heads, head_dim] of every block is
    kept here. Every method raises EngineError when a file or MNN fails.
    """

    def __init__(self, kind: str, threads: int, hidden_size: int) -> None:
        self._hidden_size = hidden_size
        self._manager = runtime_manager(kind, threads)
        self._blocks: list[_Block] = []
        self._lm: _Module | None = None

    def load_block(self, path: Path) -> None:
        """Append the block in this file to the run of blocks."""
        self._blocks.append(_Block(_Module(path, self._manager), self._hidden_size))

    def load_lm_head(self, path: Path) -> None:
        """Load the vocabulary projection with its ArgMax."""
        self._lm = _Module(path, self._manager)
        if len(self._lm.inputs) != 1:
            raise EngineError(f"{path} takes {len(self._lm.inputs)} inputs; expected one.")

    def forward(
        self, hidden: FloatArray, hidden_from: IntArray, position_ids: IntArray, cached: int
    ) -> FloatArray:
        """Run all blocks; shapes as in `runtime.article.stage.Blocks`."""
        x = _float_variable(hidden)
        for block in self._blocks:
            x = block.run(x, hidden_from, position_ids, cached)
        result: FloatArray = _array(x).reshape(-1, 1, self._hidden_size)
        if len(result) == len(hidden):
            return result
        # The article's last block may return the last position alone, which is all that lm needs.
        whole = np.zeros_like(hidden)
        whole[-1] = result[-1]
        return whole

    def token_id(self, hidden: FloatArray) -> int:
        """The token that lm.mnn chooses from the last position's hidden states [hidden_size]."""
        assert self._lm is not None
        declared, _ = next(iter(self._lm.inputs.values()))
        # The exports differ in rank: [1, hidden], [1, 1, hidden] or [1, hidden, 1, 1].
        shape = [max(size, 1) for size in declared]
        if math.prod(shape) != self._hidden_size:
            shape = [1, self._hidden_size]
        answer = self._lm.run([_float_variable(hidden.reshape(shape))])
        return int(_array(next(iter(answer.values()))).reshape(-1)[0])


class _Block:
    """One loaded block and its history."""

    def __init__(self, module: _Module, hidden_size: int) -> None:
        self._module = module
        missing = [name for name in BLOCK_INPUTS if name not in module.inputs]
        missing += [name for name in BLOCK_OUTPUTS if name not in module.outputs]
        if missing:
            raise EngineError(
                f"{module.path} has no input or output {missing[0]!r}; expected a block of the"
                f" article's export with inputs {', '.join(BLOCK_INPUTS)} and outputs"
                f" {', '.join(BLOCK_OUTPUTS)}."
            )
        past, _ = module.inputs["past_key_values"]
        embeds, _ = module.inputs["inputs_embeds"]
        heads, head_dim = past[-2:]
        if len(past) != 5 or heads * head_dim != hidden_size or embeds[-1] != hidden_size:
            raise EngineError(
                f"{module.path} declares inputs_embeds {embeds} and past_key_values {past}; the"
                f" embedding's width {hidden_size} needs [tokens, 1, {hidden_size}] and"
                f" [2, tokens, 1, heads, head_dim] with heads x head_dim = {hidden_size}."
            )
        self._empty = [2, 0, 1, heads, head_dim]
        self._past: Any = None
        self._held = 0

    def run(self, x: Any, hidden_from: IntArray, position_ids: IntArray, cached: int) -> Any:
        """Hidden states after this block; its history then holds `cached` and the new tokens."""
        self._keep(cached)
        tokens = position_ids.shape[-1]
        given = {
            "inputs_embeds": x,
            "attention_mask": self._variable("attention_mask", hidden_from),
            "position_ids": self._variable("position_ids", position_ids),
            "past_key_values": self._past,
        }
        results = self._module.run([given[name] for name in self._module.inputs])
        presents = results["presents"]
        if list(presents.shape)[1:2] != [cached + tokens]:
            raise EngineError(
                f"{self._module.path} returned presents {list(presents.shape)} for {cached} cached"
                f" and {tokens} new tokens; expected {cached + tokens} along the second axis."
            )
        self._past, self._held = presents, cached + tokens
        return results["hidden_states"]

    def _keep(self, cached: int) -> None:
        """Cut the history to `cached` tokens; a failed forward leaves more in some blocks."""
        if cached == 0:
            self._past = expr.placeholder(self._empty, expr.NCHW, expr.float)
        elif cached < self._held:
            self._past = _float_variable(_array(self._past)[:, :cached])
        self._held = cached

    def _variable(self, name: str, array: IntArray) -> Any:
        """An input in the type that the file declares: exports differ between int and float."""
        _, dtype = self._module.inputs[name]
        if dtype == expr.float:
            return _float_variable(array.astype(np.float32))
        return expr.const(np.ascontiguousarray(array), list(array.shape), expr.NCHW, expr.int)


class _Module:
    """A loaded file; `inputs` maps names to declared (shape, type) in the order MNN takes them."""

    def __init__(self, path: Path, manager: Any) -> None:
        self.path = path
        try:
            self._module = nn.load_module_from_file(
                str(path), [], [], runtime_manager=manager, shape_mutable=True, rearrange=True
            )
        except SystemError as error:
            raise EngineError(
                f"MNN {MNN.version()} cannot load {path}: the file is damaged or memory ran out."
                " Copy it again, or plan fewer blocks for this device."
            ) from error
        info = self._module.get_info()
        self.inputs = {
            name: (list(one.shape), one.dtype)
            for name, one in zip(info["inputNames"], info["inputs"], strict=True)
        }
        self.outputs: list[str] = list(info["outputNames"])

    def run(self, variables: list[Any]) -> dict[str, Any]:
        """Outputs by name."""
        results = self._module.onForward(variables)
        if len(results) != len(self.outputs):
            raise EngineError(
                f"MNN failed in {self.path}; most likely the device ran out of memory."
            )
        return dict(zip(self.outputs, results, strict=True))


def _float_variable(array: FloatArray) -> Any:
    whole = np.ascontiguousarray(array, np.float32)
    return expr.const(whole, list(whole.shape), expr.NCHW, expr.float)


def _array(variable: Any) -> Any:
    """A copy of a Var's contents (read() gives a view without an owner)."""
    return np.array(variable.read(), copy=True)
