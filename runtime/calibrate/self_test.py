"""Child process that runs a real block on one backend and compares it with NumPy.

`python -m runtime.calibrate.self_test NAME WIDTH PRECISION...` prints one JSON object. The block is
ChatGLM's with random weights, made and stored as an export does it; a prompt and some steps go
through the code that stages use. Engines are imported here and not in the parent, since a broken
driver may crash or hang whoever asks, and engines print to descriptor 1 from C.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from runtime.export.weights import BlockWeights
    from scheduler.model import ModelSpec
    from scheduler.plan import Precision

PROMPT_TOKENS, STEPS = 32, 8
_EPSILON = 1e-5


def main(name: str, width: int, precisions: list[Precision]) -> dict[str, Any]:
    """Test the backend `name` (``mnn:cpu``, ``ort:webgpu``, ...) for the parent.

    Keys: `installed` (false without the engine), `version`, `present`, `problem` (a clause that
    says why it cannot be used), and `results`, for each precision `relative_error`, `prompt_ms` of
    32 tokens and `step_ms` of one.
    """
    engine, _, kind = name.partition(":")
    answer = _ort_answer(kind) if engine == "ort" else {"version": _mnn_version(), "present": True}
    if not answer.get("present"):
        return answer
    if find_spec("onnx") is None:
        return answer | {"problem": "its test needs onnx (pip install 'glm-plan[ort]')"}
    from runtime.calibrate.parts import block_spec
    from runtime.calibrate.random_parts import random_block
    from scheduler.errors import GlmPlanError

    spec = block_spec(width)
    weights = random_block(spec)
    results: dict[str, Any] = {}
    try:
        for precision in precisions:
            results[precision] = _measure(name, spec, weights, precision)
    except GlmPlanError as error:
        return answer | {"problem": str(error).rstrip("."), "results": results}
    return answer | {"results": results}


def _ort_answer(kind: str) -> dict[str, Any]:
    from runtime.backends.ort_session import PROVIDERS, clash, installed_distributions

    names = installed_distributions()
    if not names:
        return {"installed": False}
    if clash(names):
        return {"problem": clash(names)}
    try:
        import onnxruntime
    except Exception as error:  # a wheel for another system or Python fails in many ways
        return {"problem": f"{names[0]} cannot be imported ({type(error).__name__}: {error})"}
    present = PROVIDERS[kind] in onnxruntime.get_available_providers()
    return {"version": onnxruntime.__version__, "package": names[0], "present": present}


def _mnn_version() -> str:
    import MNN

    return cast(str, MNN.version())


def _measure(
    name: str, spec: ModelSpec, weights: BlockWeights, precision: Precision
) -> dict[str, float]:
    """Error and median times of one encoding."""
    import numpy as np

    from runtime.backends.choose import open_backend
    from runtime.export.numpy_block import Sequence, block
    from runtime.rotary import Rotary
    from runtime.stage import Stage, Step
    from runtime.step_inputs import Row
    from scheduler.probe.cpu import probe_cpu

    tokens = PROMPT_TOKENS + STEPS
    hidden = np.random.default_rng(5).standard_normal((tokens, spec.hidden_size), np.float32)
    asked = Sequence(tokens, PROMPT_TOKENS - 1, PROMPT_TOKENS - 2)
    expected = block(hidden, weights, asked, spec.heads, _EPSILON).y
    cores = probe_cpu(Path("/"), sys.platform)[0].usable_cores
    backend = open_backend(name, cores, spec.kv_heads, spec.head_dim, precision == "fp16")
    with TemporaryDirectory(prefix="glm-plan-") as folder:
        backend.load_block(_file(Path(folder), name, spec, weights, precision))
    stage = Stage(backend, Rotary("two_halves", spec.head_dim), tokens + 1)

    def forward(cached: int, count: int) -> tuple[Any, float]:
        began = time.perf_counter()
        step = Step((Row(cached, asked.context, asked.mask_position),), count)
        found = stage.forward(step, hidden[None, cached : cached + count])[0]
        return found, 1000 * (time.perf_counter() - began)

    for at, count in ((0, PROMPT_TOKENS), (PROMPT_TOKENS, 1)):
        forward(at, count)  # the first run of a shape compiles kernels
    first, prompt_ms = forward(0, PROMPT_TOKENS)
    steps = [forward(at, 1) for at in range(PROMPT_TOKENS, tokens)]
    found = np.concatenate([first, *(one for one, _ in steps)])
    return {
        "relative_error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "prompt_ms": prompt_ms,
        "step_ms": statistics.median(ms for _, ms in steps),
    }


def _file(
    folder: Path, name: str, spec: ModelSpec, weights: BlockWeights, precision: Precision
) -> Path:
    """The block as the backend's engine reads it."""
    from runtime.export.block_graph import write_block
    from runtime.export.converter import convert
    from runtime.export.ort_encode import encode
    from runtime.export.ort_encodings import ort_encodings
    from runtime.export.request import choose_encodings

    graph = folder / "block.onnx"
    write_block(graph, weights, heads=spec.heads, layernorm_epsilon=_EPSILON)
    if name.startswith("ort:"):
        return encode(graph, folder / "stored.onnx", *ort_encodings(spec, (precision,), None))[0]
    (encoding,) = choose_encodings(spec, (precision,), None)
    return convert(graph, folder / "block.mnn", encoding, 1, Event())[0]


if __name__ == "__main__":
    answer_pipe = os.dup(1)
    os.dup2(2, 1)
    result = main(sys.argv[1], int(sys.argv[2]), cast("list[Precision]", sys.argv[3:]))
    with os.fdopen(answer_pipe, "w") as pipe:
        json.dump(result, pipe)
    # Leaving through the interpreter's shutdown would run driver clean-up code that may crash.
    os._exit(0)
