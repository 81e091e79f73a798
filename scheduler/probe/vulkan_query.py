"""Run as a script: print what Vulkan's drivers tell of their devices, as JSON.

Only Python's own modules, so that it starts at once. Layouts are those of vulkan_core.h (Khronos);
free memory is VK_EXT_memory_budget's: what this process could still allocate in the memory that is
local to the device, as the driver sees it now.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_LIBRARIES = {"win32": "vulkan-1.dll"}
_VERSION_1_1 = 1 << 22 | 1 << 12
_DEVICE_LOCAL = 1
_KINDS = {1: "integrated", 2: "discrete"}
_CPU_KIND = 4
_APPLICATION, _INSTANCE = 0, 1
_PROPERTIES_2, _MEMORY_2, _ID = 1000059001, 1000059006, 1000071004
_PCI_BUS, _BUDGET = 1000212000, 1000237000
_BUDGET_EXTENSION, _PCI_EXTENSION = b"VK_EXT_memory_budget", b"VK_EXT_pci_bus_info"
_MOST_DEVICES = 64

_u32, _u64, _pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


class _Application(ctypes.Structure):
    _fields_ = (
        ("type", _u32),
        ("next", _pointer),
        ("name", ctypes.c_char_p),
        ("version", _u32),
        ("engine", ctypes.c_char_p),
        ("engine_version", _u32),
        ("api", _u32),
    )


class _InstanceInfo(ctypes.Structure):
    _fields_ = (
        ("type", _u32),
        ("next", _pointer),
        ("flags", _u32),
        ("application", ctypes.POINTER(_Application)),
        ("layers", _u32),
        ("layer_names", _pointer),
        ("extensions", _u32),
        ("extension_names", _pointer),
    )


class _Extension(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 256), ("version", _u32))


class _Properties(ctypes.Structure):
    _fields_ = (
        ("api", _u32),
        ("driver", _u32),
        ("vendor", _u32),
        ("device", _u32),
        ("kind", _u32),
        ("name", ctypes.c_char * 256),
        ("cache", ctypes.c_uint8 * 16),
        ("limits_and_sparse", _u64 * 66),  # 504 + 20 bytes, padded
    )


class _Id(ctypes.Structure):
    _fields_ = (
        ("type", _u32),
        ("next", _pointer),
        ("device_uuid", ctypes.c_uint8 * 16),
        ("driver_uuid", ctypes.c_uint8 * 16),
        ("luid", ctypes.c_uint8 * 8),
        ("nodes", _u32),
        ("luid_valid", _u32),
    )


class _PciBus(ctypes.Structure):
    _fields_ = (
        ("type", _u32),
        ("next", _pointer),
        ("domain", _u32),
        ("bus", _u32),
        ("device", _u32),
        ("function", _u32),
    )


class _Heap(ctypes.Structure):
    _fields_ = (("size", _u64), ("flags", _u32))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("types", _u32),
        ("type_list", _u32 * 2 * 32),
        ("heaps", _u32),
        ("heap_list", _Heap * 16),
    )


class _Budget(ctypes.Structure):
    _fields_ = (("type", _u32), ("next", _pointer), ("budget", _u64 * 16), ("usage", _u64 * 16))


class _Properties2(ctypes.Structure):
    _fields_ = (("type", _u32), ("next", _pointer), ("core", _Properties))


class _Memory2(ctypes.Structure):
    _fields_ = (("type", _u32), ("next", _pointer), ("core", _Memory))


def query() -> dict[str, Any]:
    """``devices`` as `scheduler.probe.asked.read_answer` reads them, or a ``problem``."""
    vulkan = _load()
    if vulkan is None:
        return {"devices": []}
    application = _Application(_APPLICATION, None, b"glm-plan", 0, None, 0, _VERSION_1_1)
    wanted = _InstanceInfo(_INSTANCE, None, 0, ctypes.pointer(application), 0, None, 0, None)
    instance = _pointer()
    status = vulkan.vkCreateInstance(ctypes.byref(wanted), None, ctypes.byref(instance))
    if status == -9:  # VK_ERROR_INCOMPATIBLE_DRIVER: no driver at all
        return {"devices": []}
    if status:
        return {"devices": [], "problem": f"vkCreateInstance returned {status}"}
    count = _u32(_MOST_DEVICES)
    handles = (_pointer * _MOST_DEVICES)()
    status = vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    if status < 0:
        return {"devices": [], "problem": f"vkEnumeratePhysicalDevices returned {status}"}
    return {"devices": [_describe(vulkan, _pointer(one)) for one in handles[: count.value]]}


def _load() -> Any:
    try:
        return ctypes.CDLL(_LIBRARIES.get(sys.platform, "libvulkan.so.1"))
    except OSError:
        return None


def _describe(vulkan: Any, handle: Any) -> dict[str, Any]:
    first = _Properties()
    vulkan.vkGetPhysicalDeviceProperties(handle, ctypes.byref(first))
    told: dict[str, Any] = {
        "vendor_id": first.vendor,
        "device_id": first.device,
        "model_name": first.name.decode("utf-8", "replace"),
        "kind": _KINDS.get(first.kind),
        "software": first.kind == _CPU_KIND,
    }
    if first.api < _VERSION_1_1:
        return told
    extensions = _extensions(vulkan, handle)
    identity = _Id(_ID, None)
    bus = _PciBus(_PCI_BUS, None)
    if _PCI_EXTENSION in extensions:
        identity.next = ctypes.addressof(bus)
    properties = _Properties2(_PROPERTIES_2, ctypes.addressof(identity))
    vulkan.vkGetPhysicalDeviceProperties2(handle, ctypes.byref(properties))
    told["uuid"] = bytes(identity.device_uuid).hex()
    if identity.luid_valid:
        told["luid"] = bytes(identity.luid).hex()
    if _PCI_EXTENSION in extensions:
        told["pci_address"] = f"{bus.domain:04x}:{bus.bus:02x}:{bus.device:02x}.{bus.function:x}"
    return told | _memory(vulkan, handle, _BUDGET_EXTENSION in extensions)


def _extensions(vulkan: Any, handle: Any) -> set[bytes]:
    count = _u32(0)
    vulkan.vkEnumerateDeviceExtensionProperties(handle, None, ctypes.byref(count), None)
    found = (_Extension * count.value)()
    vulkan.vkEnumerateDeviceExtensionProperties(handle, None, ctypes.byref(count), found)
    return {one.name for one in found}


def _memory(vulkan: Any, handle: Any, has_budget: bool) -> dict[str, Any]:
    budget = _Budget(_BUDGET, None)
    memory = _Memory2(_MEMORY_2, ctypes.addressof(budget) if has_budget else None)
    vulkan.vkGetPhysicalDeviceMemoryProperties2(handle, ctypes.byref(memory))
    local = [
        at for at in range(memory.core.heaps) if memory.core.heap_list[at].flags & _DEVICE_LOCAL
    ]
    told = {"total_bytes": sum(memory.core.heap_list[at].size for at in local)}
    if has_budget:
        # Some drivers state budgets above what a heap holds.
        told["free_bytes"] = sum(
            max(0, min(budget.budget[at], memory.core.heap_list[at].size) - budget.usage[at])
            for at in local
        )
    return told


def main() -> None:
    """Print the answer; whatever a driver prints goes nowhere."""
    answer_to = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    answer = json.dumps(query())
    with os.fdopen(answer_to, "w") as out:
        out.write(answer)
    # Without the loader's own tear-down, in which drivers are known to hang.
    out.close()
    os._exit(0)


if __name__ == "__main__":
    main()
