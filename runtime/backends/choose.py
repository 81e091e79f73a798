"""From a backend's name to the object that runs a stage; engines are imported only when asked."""

from __future__ import annotations

from runtime.backends.protocol import Backend


def open_backend(
    name: str,
    threads: int,
    kv_heads: int,
    head_dim: int,
    half_arithmetic: bool,
    fine_scales: bool = False,
    limit_bytes: int | None = None,
) -> Backend:
    """The backend of this name (``mnn:cpu``, ``ort:webgpu``, ...), in the worker that owns it.

    `half_arithmetic` lets a GPU stage of ONNX Runtime multiply fp16 weights as fp16;
    `fine_scales` is MNN's, see `runtime_manager`. `limit_bytes` bounds what ONNX Runtime takes of a
    device's memory. Raises EngineError when the engine or the device
    cannot be started.
    """
    engine, _, kind = name.partition(":")
    if engine == "mnn":
        from runtime.backends.mnn import MnnBackend

        return MnnBackend(kind, threads, kv_heads, head_dim, fine_scales)
    if kind in ("cpu", "openvino"):
        from runtime.backends.ort import OrtBackend

        return OrtBackend(kind, threads, kv_heads, head_dim)
    from runtime.backends.ort_device import OrtDeviceBackend

    return OrtDeviceBackend(kind, threads, kv_heads, head_dim, half_arithmetic, limit_bytes)
