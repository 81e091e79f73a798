"""Run as a script on macOS: print what Metal tells of the GPUs, as JSON.

recommendedMaxWorkingSetSize is how much a GPU can hold without slowing down, and what the system
lends it of the RAM on Apple silicon (Apple: MTLDevice).
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_APPLE = 0x106B
_METAL = "/System/Library/Frameworks/Metal.framework/Metal"
_OBJC = "/usr/lib/libobjc.A.dylib"


def described(name: str, working_set: int, allocated: int, unified: bool) -> dict[str, Any]:
    """One device for `scheduler.probe.asked.read_answer`.

    With memory of its own, what others hold of a GPU is unknown, and so is what is free.
    """
    told: dict[str, Any] = {
        "model_name": name,
        "total_bytes": working_set,
        "kind": "integrated" if unified else "discrete",
    }
    if name.startswith("Apple"):
        told["vendor_id"] = _APPLE
    if unified:
        told["free_bytes"] = max(0, working_set - allocated)
    return told


def query() -> dict[str, Any]:
    """All GPUs, in the system's order."""
    if sys.platform != "darwin":
        return {"devices": []}
    metal, objc = ctypes.CDLL(_METAL), ctypes.CDLL(_OBJC)
    metal.MTLCopyAllDevices.restype = ctypes.c_void_p
    objc.sel_registerName.restype = ctypes.c_void_p
    objc.sel_registerName.argtypes = [ctypes.c_char_p]

    def send(thing: int, message: str, kind: Any, *given: Any) -> Any:
        arguments = [ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_ulong for _ in given)]
        call = ctypes.CFUNCTYPE(kind, *arguments)(("objc_msgSend", objc))
        return call(thing, objc.sel_registerName(message.encode()), *given)

    devices = []
    array = metal.MTLCopyAllDevices()
    for number in range(send(array, "count", ctypes.c_ulong)):
        device = send(array, "objectAtIndex:", ctypes.c_void_p, number)
        text = send(device, "name", ctypes.c_void_p)
        devices.append(
            described(
                send(text, "UTF8String", ctypes.c_char_p).decode(),
                send(device, "recommendedMaxWorkingSetSize", ctypes.c_uint64),
                send(device, "currentAllocatedSize", ctypes.c_ulong),
                send(device, "hasUnifiedMemory", ctypes.c_bool),
            )
        )
    return {"devices": devices}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(query()))
