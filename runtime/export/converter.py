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
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import BundleError
from scheduler.plan import Precision

_log = logging.getLogger(__name__)

_CHILD = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
_SUCCESS = "Converted Success!"
_SHOWN_LINES = 8


@dataclass(frozen=True)
class Encoding:
    """How a part's weights are stored: precision, and for int4 how many values share a scale."""

    precision: Precision
    weight_block: int | None = None

    @property
    def directory(self) -> str:
        """The folder of a bundle that holds parts of this encoding."""
        block = f"-block{self.weight_block}" if self.weight_block else ""
        return f"mnn-{self.precision}{block}"

    def options(self) -> list[str]:
        """The converter's flags."""
        if self.precision == "fp32":
            return []
        if self.precision == "fp16":
            return ["--fp16"]
        bits = self.precision.removeprefix("int")
        block = ["--weightQuantBlock", str(self.weight_block)] if self.weight_block else []
        return ["--weightQuantBits", bits, "--weightQuantAsymmetric", *block]


def convert(onnx_path: Path, mnn_path: Path, encoding: Encoding) -> list[Path]:
    """Convert one graph; returns the files made: ``mnn_path`` and its weights beside it.

    Raises BundleError when the child fails, leaves a layer unquantised, or makes no file.
    """
    arguments = [
        *("-f", "ONNX", "--modelFile", str(onnx_path.resolve())),
        *("--MNNModel", str(mnn_path.resolve())),
        # Level 2 breaks the block (measured); external weights load twice as fast and may pass
        # the 2 GiB that one .mnn file may hold.
        *("--optimizeLevel", "1", "--saveExternalData", "--bizCode", "glm-plan"),
        *encoding.options(),
    ]
    child = subprocess.run(  # noqa: S603 (our own interpreter, a list of arguments)
        [sys.executable, "-c", _CHILD, *arguments],
        cwd=onnx_path.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env=_child_environment(),
    )
    printed = child.stdout.decode("utf-8", "replace").splitlines()
    _log.debug("converter output for %s:\n%s", onnx_path.name, "\n".join(printed))
    weight_path = mnn_path.with_name(mnn_path.name + ".weight")
    problem = _problem(child.returncode, printed, mnn_path, weight_path)
    if problem:
        _log.error("last lines of the converter:\n%s", "\n".join(printed[-_SHOWN_LINES:]))
        raise BundleError(
            f"Converting {onnx_path.stem} to MNN {encoding.precision} failed: {problem}; check free"
            " memory and disk space, its last lines were logged."
        )
    return [mnn_path, weight_path]


def _child_environment() -> dict[str, str]:
    # The child must find the packages that this process uses, wherever they came from.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _problem(status: int, printed: list[str], mnn_path: Path, weight_path: Path) -> str | None:
    """What went wrong, from all the ways in which the converter shows it; None when nothing did."""
    if status:
        ending = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"the converter ended {ending}"
    # It returns success whatever happens (measured), so believe its words and its files.
    if not any(_SUCCESS in line for line in printed):
        return "the converter did not report success"
    if any("don't use block-quant" in line for line in printed):
        return "the weight block does not divide a layer's width"
    absent = [one.name for one in (mnn_path, weight_path) if not one.is_file()]
    return f"the converter did not write {absent[0]}" if absent else None
