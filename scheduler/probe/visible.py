"""CUDA_VISIBLE_DEVICES: which GPUs CUDA would show, in which order."""

from __future__ import annotations

from collections.abc import Sequence


def visible_gpus(setting: str | None, uuids: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """Apply the value of CUDA_VISIBLE_DEVICES to the GPUs of this machine.

    `uuids` are in PCI order. Returns the indices that stay visible, in order, and sentences about
    what was left out or could not be read. The rules are those of NVIDIA's CUDA Programming Guide
    (environment variables): numbers or UUIDs, which may be shortened as long as they stay unique;
    the first invalid entry ends the list; an empty value hides everything.
    """
    if setting is None:
        return list(range(len(uuids))), []
    order: list[int] = []
    notes: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        index = _resolve(entry, uuids)
        if index is None or index in order:
            if entry.startswith("MIG-"):
                notes.append(
                    f"CUDA_VISIBLE_DEVICES names the MIG instance {entry}, which glm-plan cannot"
                    " measure; give its free memory with --vram."
                )
            elif entry not in ("", "-1"):
                notes.append(
                    f"CUDA_VISIBLE_DEVICES={setting} ends at {entry!r},"
                    " which names no further GPU of this machine."
                )
            break
        order.append(index)
    hidden = len(uuids) - len(order)
    if hidden:
        verb = "is" if hidden == 1 else "are"
        notes.append(
            f"{hidden} of {len(uuids)} GPUs {verb} hidden by CUDA_VISIBLE_DEVICES={setting}."
        )
    return order, notes


def numbers_are_ambiguous(setting: str | None, device_order: str | None) -> bool:
    """Whether a GPU is named by number, which CUDA by default counts from the fastest."""
    if setting is None or device_order == "PCI_BUS_ID":
        return False
    return any(part.strip().isdecimal() for part in setting.split(","))


def _resolve(entry: str, uuids: Sequence[str | None]) -> int | None:
    if entry.isascii() and entry.isdecimal():
        index = int(entry) if len(entry) < 6 else len(uuids)
        return index if index < len(uuids) else None
    if not entry.startswith("GPU-"):
        return None
    matches = [index for index, uuid in enumerate(uuids) if uuid and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None
