"""Which backends of ONNX Runtime really work here: a real block each, in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtime.backends.proof import BackendReport, BackendStatus, ask_child

ORT_KINDS = ("cpu", "webgpu", "cuda", "directml", "openvino")
_WIDTH = "256"
# A software driver compiles the kernels of a block in ten seconds (measured).
_TIMEOUT_S = 120.0
_TOLERANCE = 1e-3
_EXTRAS = {"cpu": "ort", "webgpu": "gpu", "cuda": "cuda", "directml": "directml"}


def prove_ort(kinds: Sequence[str] = ORT_KINDS, timeout_s: float = _TIMEOUT_S) -> BackendReport:
    """Prove these backends, once in this process's life; what fails becomes a sentence.

    A provider counts only if it ran all arithmetic of the block itself: ONNX Runtime would fall
    back to the CPU without an error.
    """
    with ThreadPoolExecutor(max_workers=len(kinds)) as pool:
        answers = list(pool.map(lambda kind: _ask(kind, timeout_s), kinds))
    versions = [answer["version"] for answer in answers if "version" in answer]
    return BackendReport(
        engine="ort",
        version=versions[0] if versions else None,
        backends=tuple(_status(kind, answer) for kind, answer in zip(kinds, answers, strict=True)),
    )


def _ask(kind: str, timeout_s: float) -> dict[str, Any]:
    return ask_child("runtime.calibrate.self_test", (f"ort:{kind}", _WIDTH, "fp32"), timeout_s)


def _status(kind: str, answer: dict[str, Any]) -> BackendStatus:
    extra = _EXTRAS.get(kind, kind)
    if not answer.get("installed", True):
        return BackendStatus(
            kind, "missing", f"ONNX Runtime is not installed (pip install 'glm-plan[{extra}]')."
        )
    if "problem" in answer:
        return BackendStatus(kind, "failed", f"It cannot be used: {answer['problem']}.")
    if not answer["present"]:
        return BackendStatus(
            kind,
            "missing",
            f"{answer['package']} does not contain it; pip uninstall {answer['package']}, then pip"
            f" install 'glm-plan[{extra}]'.",
        )
    error = float(answer["results"]["fp32"]["relative_error"])
    if not error <= _TOLERANCE:
        reason = f"It cannot be used: its results are wrong (relative error {error:.1e})."
        return BackendStatus(kind, "failed", reason, relative_error=error)
    return BackendStatus(
        kind, "works", "It gives the results of NumPy on a block.", relative_error=error
    )
