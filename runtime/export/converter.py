"""ONNX to MNN, one part per child process, through the converter inside the MNN wheel.

The wheel's `mnnconvert` script and `MNN.tools` are never used: at import they install and start a
telemetry client. The module `_tools` below them converts and nothing else. A child process,
because the converter keeps its memory, prints from C and answers bad input by crashing.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from threading import Event

from runtime.export.model_id import set_model_id
from runtime.export.request import Encoding
from scheduler.errors import BundleError

_log = logging.getLogger(__name__)

_CHILD = (
    "import sys; from runtime.confine import confine; confine();"
    " import _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
)
_SUCCESS = "Converted Success!"
_SHOWN_LINES = 8
# How programs, libraries, text and threads are found and used; Windows starts nothing without its.
_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("OMP_NUM_THREADS", "SYSTEMROOT", "WINDIR", "PATHEXT"),
)
_POLL_SECONDS = 0.1


class StoppedError(Exception):
    """The conversion was called off because another part of the export failed."""


def convert(
    onnx_path: Path, mnn_path: Path, encoding: Encoding, least_bytes: int, stop: Event
) -> list[Path]:
    """Convert one graph; returns the files made: ``mnn_path`` and its weights beside it.

    The same graph and encoding give the same bytes.

    ``least_bytes`` is what the weights must come to: a full disk goes unnoticed in the converter.
    Raises BundleError when the child fails, leaves a layer unquantised, or makes no whole file, and
    StoppedError soon after ``stop`` is set.
    """
    arguments = [
        *("-f", "ONNX", "--modelFile", str(onnx_path.resolve())),
        *("--MNNModel", str(mnn_path.resolve())),
        # Level 2 breaks the block (measured); external weights load twice as fast and may pass
        # the 2 GiB that one .mnn file may hold.
        *("--optimizeLevel", "1", "--saveExternalData", "--bizCode", "glm-plan"),
        *_flags(encoding),
    ]
    status, printed = _run_child(arguments, onnx_path.parent, mnn_path.stem, stop)
    weight_path = mnn_path.with_name(mnn_path.name + ".weight")
    problem = _problem(status, printed) or _shortfall(mnn_path, weight_path, least_bytes)
    if problem:
        _log.error("last lines of the converter:\n%s", "\n".join(printed[-_SHOWN_LINES:]))
        raise BundleError(
            f"Converting {onnx_path.stem} to MNN {encoding.precision} failed: {problem}; check free"
            " memory and disk space, its last lines were logged."
        )
    set_model_id(mnn_path, weight_path)
    return [mnn_path, weight_path]


def _flags(encoding: Encoding) -> list[str]:
    if encoding.precision == "fp32":
        return []
    if encoding.precision == "fp16":
        return ["--fp16"]
    bits = encoding.precision.removeprefix("int")
    block = ["--weightQuantBlock", str(encoding.weight_block)] if encoding.weight_block else []
    # Scales and minimums as fp16: together the bytes of a symmetric fp32 scale, at a fifth less
    # error (measured). Naming --weightQuantAsymmetric would turn it off: it is on by default.
    return ["--weightQuantBits", bits, "--weightQuantScaleBit", "16", *block]


def _run_child(arguments: list[str], folder: Path, name: str, stop: Event) -> tuple[int, list[str]]:
    """The child's exit status and the lines it printed."""
    output_path = folder / f"{name}.log"
    with output_path.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 (our own interpreter, a list of arguments)
            [sys.executable, "-c", _CHILD, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_child_environment(folder),
        )
        try:
            while child.poll() is None:
                if stop.wait(_POLL_SECONDS):
                    raise StoppedError
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    printed = output_path.read_text("utf-8", "replace").splitlines()
    _log.debug("converter output for %s:\n%s", name, "\n".join(printed))
    return child.returncode, printed


def _child_environment(folder: Path) -> dict[str, str]:
    """What the child needs to start, and none of the keys and tokens that may be around."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # The child must find the packages that this process uses, wherever they came from.
    packages = os.pathsep.join(path for path in sys.path if path)
    return {**kept, "PYTHONPATH": packages, "TMPDIR": str(folder), "TEMP": str(folder)}


def _problem(status: int, printed: list[str]) -> str | None:
    """What went wrong, as the converter's words tell; None when nothing did."""
    if status:
        ending = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"the converter ended {ending}"
    # It returns success whatever happens (measured), so believe its words and its files.
    if not any(_SUCCESS in line for line in printed):
        return "the converter did not report success"
    if any("don't use block-quant" in line for line in printed):
        return "the weight block does not divide a layer's width"
    return None


def _shortfall(mnn_path: Path, weight_path: Path, least_bytes: int) -> str | None:
    for path, least in ((mnn_path, 1), (weight_path, least_bytes)):
        size_bytes = path.stat().st_size if path.is_file() else 0
        if size_bytes < least:
            return f"the converter wrote {size_bytes} of {least} bytes to {path.name}"
    return None
