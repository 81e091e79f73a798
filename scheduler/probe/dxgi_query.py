"""Run as a script on Windows: print what DXGI tells of the graphics adapters, as JSON.

IDXGIAdapter3::QueryVideoMemoryInfo is the system's own count: what this process may use of an
adapter's memory now, and what it uses. Numbers of methods are their places in dxgi1_4.h.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_FACTORY = "770aae78-f26f-4dba-a829-253c83d1b387"  # IDXGIFactory1
_ADAPTER_3 = "645967a4-1392-4310-a798-8053ce3e93fd"  # IDXGIAdapter3
_QUERY_INTERFACE, _RELEASE, _GET_DESC_1, _ENUM_ADAPTERS_1, _QUERY_MEMORY = 0, 2, 10, 12, 14
_SOFTWARE = 2
_LOCAL = 0  # DXGI_MEMORY_SEGMENT_GROUP_LOCAL
_MOST_ADAPTERS = 64


class Description(ctypes.Structure):
    """DXGI_ADAPTER_DESC1."""

    _fields_ = (
        ("name", ctypes.c_uint16 * 128),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("subsystem", ctypes.c_uint32),
        ("revision", ctypes.c_uint32),
        ("dedicated_video", ctypes.c_size_t),
        ("dedicated_system", ctypes.c_size_t),
        ("shared_system", ctypes.c_size_t),
        ("luid", ctypes.c_uint8 * 8),
        ("flags", ctypes.c_uint32),
    )


class MemoryInfo(ctypes.Structure):
    """DXGI_QUERY_VIDEO_MEMORY_INFO."""

    _fields_ = (
        ("budget", ctypes.c_uint64),
        ("usage", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
    )


def described(adapter: Description, memory: MemoryInfo | None) -> dict[str, Any]:
    """One device for `scheduler.probe.asked.read_answer`.

    A budget above the adapter's dedicated memory can only be RAM: an integrated GPU, whose total
    is then what it has of its own and what it may share.
    """
    name = bytes(adapter.name).decode("utf-16-le", "replace").partition("\0")[0]
    told: dict[str, Any] = {
        "vendor_id": adapter.vendor,
        "device_id": adapter.device,
        "model_name": name,
        "luid": bytes(adapter.luid).hex(),
        "software": bool(adapter.flags & _SOFTWARE),
        "total_bytes": adapter.dedicated_video,
    }
    if memory is None:
        return told
    integrated = memory.budget > adapter.dedicated_video
    told["kind"] = "integrated" if integrated else "discrete"
    told["total_bytes"] += adapter.shared_system if integrated else 0
    told["free_bytes"] = max(0, memory.budget - memory.usage)
    return told


def _method(thing: ctypes.c_void_p, number: int, *types: Any) -> Any:
    if sys.platform != "win32":
        raise OSError("DXGI exists on Windows only")
    table = ctypes.cast(thing, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
    made = ctypes.WINFUNCTYPE(ctypes.c_long, ctypes.c_void_p, *types)(table[number] or 0)
    return lambda *given: made(thing, *given)


def _id(text: str) -> Any:
    import uuid

    return (ctypes.c_uint8 * 16)(*uuid.UUID(text).bytes_le)


def _memory(adapter: ctypes.c_void_p) -> MemoryInfo | None:
    third = ctypes.c_void_p()
    pointer = ctypes.c_void_p
    asked = _method(adapter, _QUERY_INTERFACE, pointer, pointer)
    if asked(_id(_ADAPTER_3), ctypes.byref(third)):
        return None  # before Windows 10
    info = MemoryInfo()
    query = _method(third, _QUERY_MEMORY, ctypes.c_uint32, ctypes.c_uint32, pointer)
    failed = query(0, _LOCAL, ctypes.byref(info))
    _method(third, _RELEASE)()
    return None if failed else info


def query() -> dict[str, Any]:
    """All adapters, in the system's order, or why there are none."""
    if sys.platform != "win32":
        return {"devices": []}
    pointer = ctypes.c_void_p
    factory = pointer()
    status = ctypes.WinDLL("dxgi").CreateDXGIFactory1(_id(_FACTORY), ctypes.byref(factory))
    if status:
        return {"devices": [], "problem": f"CreateDXGIFactory1 returned {status & 0xFFFFFFFF:#x}"}
    devices = []
    for number in range(_MOST_ADAPTERS):
        adapter = pointer()
        if _method(factory, _ENUM_ADAPTERS_1, ctypes.c_uint32, pointer)(
            number, ctypes.byref(adapter)
        ):
            break
        description = Description()
        if not _method(adapter, _GET_DESC_1, pointer)(ctypes.byref(description)):
            devices.append(described(description, _memory(adapter)))
        _method(adapter, _RELEASE)()
    return {"devices": devices}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(query()))
