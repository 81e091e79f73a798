"""ONNX Runtime sessions: which provider runs them, and whether it really does."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scheduler.errors import EngineError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""ONNX Runtime's name of each kind of backend (ort:cpu, ort:webgpu, ...)."""

DISTRIBUTIONS = {
    "onnxruntime": "ort",
    "onnxruntime-webgpu": "gpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-directml": "directml",
    "onnxruntime-openvino": "openvino",
}
"""The packages that install ONNX Runtime, and the extra of glm-plan that asks for each."""

# What providers leave to the CPU on purpose: arithmetic on shapes.
_SHAPE_OPERATORS = frozenset(
    {"Cast", "Concat", "Constant", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"}
)
_HOST_KINDS = frozenset({"cpu", "openvino"})  # compute in the memory of this process
_ERRORS_ONLY, _NOTHING = 3, 4
_OPTIONS = {
    # TF32 has ten bits of mantissa; an arena that doubles takes more than was planned.
    "cuda": {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
}


def installed_distributions() -> list[str]:
    """The packages here that contain ONNX Runtime, as pip names them."""
    found = []
    for name in DISTRIBUTIONS:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def clash(distributions: list[str]) -> str | None:
    """The sentence to say when several packages wrote over each other's files, or None."""
    if len(distributions) < 2:
        return None
    names = " and ".join(distributions)
    return (
        f"{names} are both installed and write to the same folder, so that only the last one's"
        f" files are there: pip uninstall {' '.join(distributions)}, then install the one extra"
        " that you want"
    )


def provider_options(kind: str, limit_bytes: int | None = None) -> dict[str, str]:
    """What a session tells its provider; `limit_bytes` is for all memory of this session.

    Only CUDA's provider has a limit. WebGPU's and DirectML's have none (ONNX Runtime 1.27).
    """
    options = dict(_OPTIONS.get(kind, {}))
    if kind == "cuda" and limit_bytes is not None:
        options["gpu_mem_limit"] = str(limit_bytes)
    return options


def open_session(
    model: Path | bytes,
    kind: str,
    threads: int,
    folder: Path | None = None,
    limit_bytes: int | None = None,
) -> Any:
    """A session of this model on the provider of `kind`.

    `model` is a file, or a serialised model whose weights lie in `folder`; `limit_bytes` is as in
    `provider_options`. Raises EngineError when
    ONNX Runtime cannot load it, or loads it elsewhere than on that provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin between operators take the cores of the other stages.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Every block is a session; arenas would keep the scratch of the longest prompt in each.
    options.enable_cpu_mem_arena = False
    if kind in _HOST_KINDS:
        # One allocation for a whole prompt took up to 1.6 times what is alive at once.
        options.enable_mem_pattern = False
        if isinstance(model, Path) and not _is_quantised(model):
            # Packed copies of fp32 weights would not fit where mapped ones are merely paged.
            options.add_session_config_entry("session.disable_prepacking", "1")
    if kind == "directml":  # its documentation demands this
        options.enable_mem_pattern = False
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    name = str(model) if isinstance(model, Path) else str(folder or "a graph of glm-plan's own")
    try:
        session = onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            options,
            providers=[(PROVIDERS[kind], provider_options(kind, limit_bytes))],
            enable_fallback=0,  # to the CPU, when the provider cannot start
        )
    except Exception as error:  # each failure of ONNX Runtime is a class of its own
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {name} on {kind}:"
            f" {_first_line(error)}"
        ) from error
    require_placement(session, kind, name)
    return session


def _is_quantised(model: Path) -> bool:
    """Whether a graph has products with int8 or int4 weights, which only packed ones do fast."""
    try:
        return b"MatMulNBits" in model.read_bytes()
    except OSError:
        return False  # loading says what is wrong


def require_placement(session: Any, kind: str, name: str) -> None:
    """Raise EngineError unless the provider of `kind` runs all but arithmetic on shapes."""
    provider = PROVIDERS[kind]
    if provider not in session.get_providers():
        raise EngineError(
            f"ONNX Runtime put {name} on the CPU instead of {kind}: the provider could not be"
            " started here; `glm-plan devices` says why."
        )
    strays = operators_on_cpu(session) - _SHAPE_OPERATORS
    if kind != "cpu" and strays:
        raise EngineError(
            f"ONNX Runtime's {kind} lacks {', '.join(sorted(strays))}, which {name} needs, and"
            " would run that on the CPU; choose another backend for this device."
        )


def operators_on_cpu(session: Any) -> set[str]:
    """Operators that the session gave to the CPU provider; empty where versions don't tell."""
    report = getattr(session, "get_provider_graph_assignment_info", None)
    if report is None:
        return set()
    return {
        node.op_type
        for subgraph in report()
        if subgraph.ep_name == PROVIDERS["cpu"]
        for node in subgraph.get_nodes()
    }


def run(session: Any, binding: Any, what: str, options: Any = None) -> None:
    """Run a bound session; EngineError when it fails."""
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime failed in {what}: {_first_line(error)}; most likely the device ran out"
            " of memory."
        ) from error


def run_once(session: Any, **inputs: Any) -> dict[str, Any]:
    """Outputs by name, on the host; a failure is an EngineError and otherwise silent."""
    import onnxruntime

    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = _NOTHING
    try:
        results = session.run(None, inputs, quiet)
    except Exception as error:
        raise EngineError(f"ONNX Runtime failed: {_first_line(error)}.") from error
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, results, strict=True))


def _first_line(error: Exception) -> str:
    """What happened, without the place in ONNX Runtime's source that C++ puts in front."""
    line = str(error).strip().splitlines()[0]
    return line.rpartition(" was false. ")[2][-300:]
