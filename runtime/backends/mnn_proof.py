"""Child process that proves one MNN backend: does this build have it, and does it compute right?

Run as `python -m runtime.backends.mnn_proof KIND [--presence-only]`; one JSON object comes out.
MNN is imported here and not in the parent because a broken driver may crash or hang whoever asks,
because each question leaks, and because MNN prints to descriptor 1 from C.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Largest error allowed, relative to the largest reference value: fp32 on the CPU, fp16 on a GPU.
_TOLERANCE = {"high": 1e-4, "low": 2e-2}
_ROWS, _WIDTH, _INNER = 4, 256, 512


def main(kind: str, presence_only: bool) -> dict[str, Any]:
    """Prove backend `kind` (cpu, cuda, ...) for the parent.

    Keys: `installed` (false without MNN), `version`, `present`, `relative_error` of the numeric
    test, or `problem`, a clause that says why it cannot be used.
    """
    try:
        import MNN
    except ModuleNotFoundError as error:
        if error.name != "MNN":
            return {"problem": f"MNN cannot be imported ({error})"}
        return {"installed": False}
    except Exception as error:  # a wheel for another system or Python fails in many ways
        return {"problem": f"MNN cannot be imported ({type(error).__name__}: {error})"}
    answer: dict[str, Any] = {"version": MNN.version()}
    # The only honest sign of a backend: asking for a missing one succeeds and runs on the CPU.
    _runtimes, exists = MNN.Interpreter.createRuntime(({"backend": kind.upper()},))
    answer["present"] = bool(exists[0])
    if answer["present"] and not presence_only:
        answer.update(_compute(kind))
    return answer


def _compute(kind: str) -> dict[str, Any]:
    """Run a small feed-forward network on the backend and compare it with NumPy in float64."""
    import numpy as np
    from MNN import expr, nn

    random = np.random.default_rng(20)
    x, up, down = (
        random.standard_normal(shape, dtype=np.float32)
        for shape in ((_ROWS, _WIDTH), (_WIDTH, _INNER), (_INNER, _WIDTH))
    )
    expected = np.maximum(x.astype(np.float64) @ up, 0) @ down

    def var(array: Any) -> Any:
        return expr.const(array, list(array.shape), expr.NCHW)

    given = expr.placeholder(list(x.shape), expr.NCHW)
    given.name = "x"
    result = expr.matmul(expr.relu(expr.matmul(given, var(up))), var(down))
    result.name = "y"
    # The precision that a stage on this backend uses.
    precision = "high" if kind == "cpu" else "low"
    with tempfile.TemporaryDirectory(prefix="glm-plan-") as folder:
        path = str(Path(folder) / "proof.mnn")
        expr.save([result], path)
        manager = nn.create_runtime_manager(
            ({"backend": kind.upper(), "precision": precision, "numThread": 1},)
        )
        module = nn.load_module_from_file(path, ["x"], ["y"], runtime_manager=manager)
        outputs = module.onForward([var(x)])
    if not outputs:
        return {"problem": "its forward pass returned nothing"}
    computed = np.array(outputs[0].read(), dtype=np.float64)
    if computed.shape != expected.shape:
        return {"problem": f"it returned shape {computed.shape} instead of {expected.shape}"}
    error = float(np.abs(computed - expected).max() / np.abs(expected).max())
    if not error <= _TOLERANCE[precision]:
        return {"problem": f"its results are wrong (relative error {error:.1e} against NumPy)"}
    return {"relative_error": error}


if __name__ == "__main__":
    answer_pipe = os.dup(1)
    os.dup2(2, 1)
    answer = main(sys.argv[1], "--presence-only" in sys.argv[2:])
    with os.fdopen(answer_pipe, "w") as pipe:
        json.dump(answer, pipe)
    # Leaving through the interpreter's shutdown would run driver clean-up code that may crash.
    os._exit(0)
