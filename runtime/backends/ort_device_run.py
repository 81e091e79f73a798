"""Sessions on one device, run on arrays of the host and on values that stay on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.ort_session import open_session, run
from scheduler.errors import EngineError
from scheduler.units import format_size

_DEVICE_NAMES = {"webgpu": "webgpu", "cuda": "cuda", "directml": "dml"}


class DeviceRun:
    """Opens sessions on the provider of `kind`, and binds what they read and write.

    `limit_bytes` is the device's memory for all of them, where that is known.
    """

    def __init__(self, kind: str, threads: int, limit_bytes: int | None = None) -> None:
        self._kind = kind
        self._threads = threads
        self._device = _DEVICE_NAMES[kind]
        self._limit_bytes = limit_bytes
        self._left_bytes = limit_bytes

    def open(self, model: bytes, folder: Path | None = None, weights_bytes: int = 0) -> Any:
        """A session of this model, whose weights, if any, lie in `folder`.

        Every session has memory of its own, and may take what the weights before it have left.
        Raises EngineError where that is less than its own weights.
        """
        left = self._left_bytes
        self._take(weights_bytes, str(folder))
        return open_session(model, self._kind, self._threads, folder, left)

    def _take(self, weights_bytes: int, folder: str) -> None:
        if self._left_bytes is None or self._limit_bytes is None:
            return
        if weights_bytes > self._left_bytes:
            raise EngineError(
                f"a part in {folder} has {format_size(weights_bytes)} of weights, and of the"
                f" {format_size(self._limit_bytes)} that the plan was given on this device"
                f" {format_size(self._left_bytes)} are left; put fewer blocks there (--gpu-blocks)"
                " or choose a lower --gpu-precision."
            )
        self._left_bytes -= weights_bytes

    def __call__(
        self,
        session: Any,
        given: dict[str, Any],
        outputs: list[str],
        what: str,
        *,
        in_place: dict[str, Any] | None = None,
        to_host: str | None = None,
        gives_back: bool = False,
    ) -> list[Any]:
        """The outputs, on the device but for the one that goes `to_host`.

        `in_place` outputs are written into values that are given as inputs as well. With
        `gives_back`, what an arena keeps for later is given back after the run.
        """
        binding = session.io_binding()
        for name, value in given.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu" if name == to_host else self._device, 0)
        for name, value in (in_place or {}).items():
            binding.bind_ortvalue_output(name, value)
        run(session, binding, what, self._shrinking() if gives_back else None)
        results: list[Any] = binding.get_outputs()
        return results[: len(outputs)]

    def _shrinking(self) -> Any:
        """Options of a run after which the arena holds no scratch; only CUDA's is an arena."""
        if self._kind != "cuda":
            return None
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        return options
