"""Which backends really work here, proved in child processes; no engine is imported in this one.

`ort_proof` is for ONNX Runtime what this is for MNN.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from scheduler.hardware import Gpu
from scheduler.probe.nvml import probe_gpus

# What MNN's createRuntime knows of GPUs and CPUs (phone accelerators are left out).
MNN_KINDS = ("cpu", "cuda", "opencl", "vulkan", "metal", "opengl")
# The child finds modules where this process would, and nothing else: `-m` would look into the
# current directory first.
_CHILD = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); import runpy;"
    " runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)
# The first kernels of a GPU driver may take many seconds to compile.
_TIMEOUT_S = 60.0

Status = Literal["works", "missing", "no_device", "failed"]


@dataclass(frozen=True)
class BackendStatus:
    """One backend: it works (its numeric test passed), or why it is of no use.

    `reason` is a full sentence. `relative_error` is measured against NumPy, relative to the largest
    value; None where nothing ran.
    """

    kind: str
    status: Status
    reason: str
    relative_error: float | None = None


@dataclass(frozen=True)
class BackendReport:
    """An engine, its version (None: it could not be imported), and the state of each backend."""

    engine: str
    version: str | None
    backends: tuple[BackendStatus, ...]

    @property
    def working(self) -> frozenset[str]:
        """Names as plans use them, such as ``mnn:cpu``, of the backends that work."""
        return frozenset(
            f"{self.engine}:{backend.kind}"
            for backend in self.backends
            if backend.status == "works"
        )


def prove_backends(
    gpus: tuple[Gpu, ...] | None = None, timeout_s: float = _TIMEOUT_S
) -> BackendReport:
    """Prove every backend of MNN, each in a process of its own, once in this process's life.

    `gpus` are what NVML shows (asked for when not given): a CUDA build may claim to work without a
    driver, so CUDA counts only beside such a GPU. A child that crashes, is silent for `timeout_s`
    seconds or finds no MNN becomes a sentence, never an exception.
    """
    if gpus is None:
        gpus, _notes = probe_gpus(os.environ, sys.platform)
    with ThreadPoolExecutor(max_workers=len(MNN_KINDS)) as pool:
        answers = list(
            pool.map(
                lambda kind: _ask_mnn(kind, kind == "cuda" and not gpus, timeout_s),
                MNN_KINDS,
            )
        )
    versions = [answer["version"] for answer in answers if "version" in answer]
    return BackendReport(
        engine="mnn",
        version=versions[0] if versions else None,
        backends=tuple(
            _status(kind, answer, bool(gpus))
            for kind, answer in zip(MNN_KINDS, answers, strict=True)
        ),
    )


def _ask_mnn(kind: str, presence_only: bool, timeout_s: float) -> dict[str, Any]:
    words = (kind, "--presence-only") if presence_only else (kind,)
    return ask_child("runtime.backends.mnn_proof", words, timeout_s)


@functools.cache
def ask_child(module: str, words: tuple[str, ...], timeout_s: float) -> dict[str, Any]:
    """Run a module in a process of its own and return its JSON answer, or why there is none."""
    command = [sys.executable, "-c", _CHILD, os.pathsep.join(sys.path), module, *words]
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter and code)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"it did not answer within {timeout_s:g} seconds"}
    except OSError as error:
        return {"problem": f"its test process could not be started ({error})"}
    if done.returncode != 0:
        return {"problem": f"its test process {_how_it_ended(done)}"}
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {"problem": "its test process answered nothing that can be read"}
    assert isinstance(answer, dict)
    return answer


def _how_it_ended(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        try:
            return f"crashed ({signal.Signals(-done.returncode).name})"
        except ValueError:
            return f"crashed (signal {-done.returncode})"
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"failed with exit code {done.returncode}" + (f" ({last[0]})" if last else "")


def _status(kind: str, answer: dict[str, Any], gpu_shown: bool) -> BackendStatus:
    name = kind.upper()
    if not answer.get("installed", True):
        return BackendStatus(kind, "missing", "MNN is not installed (pip install MNN).")
    if "problem" in answer:
        return BackendStatus(kind, "failed", f"{name} cannot be used: {answer['problem']}.")
    if not answer["present"]:
        return BackendStatus(kind, "missing", f"This build of MNN does not contain {name}.")
    if kind == "cuda" and not gpu_shown:
        return BackendStatus(
            kind, "no_device", "This build of MNN contains CUDA, but NVML shows no NVIDIA GPU."
        )
    error = float(answer["relative_error"])
    return BackendStatus(
        kind,
        "works",
        f"{name} gives the results of NumPy on a small network.",
        relative_error=error,
    )
