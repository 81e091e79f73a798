"""A backend's self-test, run in a child process: how far off it is, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.backends.proof import ask_child
from scheduler.plan import Precision

_WIDTH = "1024"
# A GPU in software takes minutes.
_TIMEOUT_S = 900.0
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
# Largest relative error of hidden states: rounding of random weights, with room. Fp32 has room for
# GPUs that compute in fp16 when asked for low precision.
_TOLERANCE = {"fp32": 1e-2, "fp16": 1e-2, "int8": 5e-2, "int4": 0.3}


@dataclass(frozen=True)
class PrecisionTest:
    """A block of width 1,024 at one precision; `prompt_ms` is of 32 tokens, `step_ms` of one."""

    precision: Precision
    relative_error: float
    prompt_ms: float
    step_ms: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains the error."""
        return self.relative_error <= _TOLERANCE[self.precision]


@dataclass(frozen=True)
class SelfTest:
    """What was measured; `problem` is a clause that says why more could not be."""

    results: tuple[PrecisionTest, ...]
    problem: str | None


def self_test(name: str) -> SelfTest:
    """Test the backend `name` (``mnn:cpu``, ``ort:webgpu``, ...)."""
    answer = ask_child("runtime.calibrate.self_test", (name, _WIDTH, *_PRECISIONS), _TIMEOUT_S)
    found = answer.get("results", {})
    results = tuple(PrecisionTest(one, **found[one]) for one in _PRECISIONS if one in found)
    problem = answer.get("problem")
    wrong = [one.precision for one in results if not one.passed]
    if wrong and problem is None:
        problem = f"its results are wrong at {', '.join(wrong)}"
    return SelfTest(results, problem)
