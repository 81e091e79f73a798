"""Sessions on one device, run on arrays of the host and on values that stay on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.ort_session import open_session, run

_DEVICE_NAMES = {"webgpu": "webgpu", "cuda": "cuda", "directml": "dml"}


class DeviceRun:
    """Opens sessions on the provider of `kind`, and binds what they read and write."""

    def __init__(self, kind: str, threads: int) -> None:
        self._kind = kind
        self._threads = threads
        self._device = _DEVICE_NAMES[kind]

    def open(self, model: bytes, folder: Path | None = None) -> Any:
        """A session of this model, whose weights, if any, lie in `folder`."""
        return open_session(model, self._kind, self._threads, folder)

    def __call__(
        self,
        session: Any,
        given: dict[str, Any],
        outputs: list[str],
        what: str,
        *,
        in_place: dict[str, Any] | None = None,
        to_host: str | None = None,
    ) -> list[Any]:
        """The outputs, on the device but for the one that goes `to_host`.

        `in_place` outputs are written into values that are given as inputs as well.
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
        run(session, binding, what)
        results: list[Any] = binding.get_outputs()
        return results[: len(outputs)]
