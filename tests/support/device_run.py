"""One stage on ort:webgpu beside the same on ort:cpu, in a process of its own; prints JSON.

`python -m tests.support.device_run BUNDLE PRECISION`. Says what the sessions say of themselves, how
far hidden states are apart at every step, and how many bytes each step moved from and to the host.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.ort_device import OrtDeviceBackend
from runtime.backends.ort_device_run import DeviceRun
from runtime.backends.ort_session import operators_on_cpu
from runtime.bundle import open_bundle
from runtime.stage import Step
from runtime.step_inputs import Row
from tests.support.mixed_bundle import two_rows, whole_stage

STEPS = (60, 1, 1, 1, 1, 1, 70, 1)  # across 64 and 128 slots


class Counted(DeviceRun):
    """Counts the bytes of arrays that enter and leave its sessions."""

    to_device = to_host_bytes = 0

    def __call__(self, session: Any, given: dict[str, Any], *args: Any, **kwargs: Any) -> list[Any]:
        results = super().__call__(session, given, *args, **kwargs)
        arrays = (value for value in given.values() if isinstance(value, np.ndarray))
        self.to_device += sum(array.nbytes for array in arrays)
        if kwargs.get("to_host"):
            self.to_host_bytes += 4 * math.prod(results[0].shape())
        return results


def main(bundle_path: str, precision: Any) -> dict[str, Any]:
    """Run both stages over the same hidden states."""
    bundle = open_bundle(Path(bundle_path))
    geometry = bundle.manifest.geometry
    host = whole_stage(bundle, "ort:cpu", precision)
    device = whole_stage(bundle, "ort:webgpu", precision)
    backend = device._backend
    assert isinstance(backend, OrtDeviceBackend)
    run = backend._run
    run.__class__ = Counted
    random = np.random.default_rng(1)
    steps, cached = [], 0
    for tokens in STEPS:
        hidden = random.standard_normal((1, tokens, geometry.hidden_size), np.float32)
        step = Step((Row(cached, 59, 58),), tokens)
        run.to_device = run.to_host_bytes = 0
        found, expected = (stage.forward(step, hidden) for stage in (device, host))
        cached += tokens
        steps.append(
            {
                "tokens": tokens,
                "error": relative_error(found, expected),
                "to_device": run.to_device,
                "to_host": run.to_host_bytes,
                "capacity": backend._caches[0][0].shape.capacity,
                "cache_on_device": sum(
                    4 * math.prod(value.shape())
                    for cache in backend._caches[0]
                    for value in cache.values.values()
                ),
            }
        )
    logits = [stage.lm_head(found[:, -1]) for stage in (device, host)]
    sessions = [block.session for block in backend._blocks] + [backend._lm_head]
    return {
        "providers": [session.get_providers()[0] for session in sessions],
        "on_cpu": sorted(set().union(*map(operators_on_cpu, sessions))),
        "steps": steps,
        "logits_error": relative_error(*logits),
        "two_rows_error": two_rows(device, host, geometry.hidden_size),
    }


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
