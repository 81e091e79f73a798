"""Calibrated: replace estimated speeds by those that were measured, unasked or by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.cost import Speeds
from scheduler.errors import UserInputError
from scheduler.estimates import estimated_speeds
from scheduler.hardware import Host
from scheduler.host_store import load_host, matching_host


def with_calibration(
    host: Host,
    speeds: Speeds | None,
    name: str | None,
    named: Sequence[str],
    is_here: bool,
    gpus: int,
) -> tuple[Host, Speeds | None]:
    """Put measured constants over `speeds` (None: estimated), for up to `gpus` stated GPUs.

    `name` is a stored profile; without one, the newest that matches this processor is taken where
    `is_here`. `named` lists flags that name devices, which a named profile replaces. Raises
    UserInputError for both together, and for a profile that is unknown or damaged.
    """
    if name is not None:
        if named:
            raise UserInputError(
                f"--host {name} brings measured speeds and {named[0]} names a device by its"
                " published ones; leave one of them out."
            )
        profile = load_host(name)
    else:
        if not is_here:
            return host, speeds
        found, remarks = matching_host(host.cpu)
        host = replace(host, notes=(*host.notes, *remarks))
        if found is None:
            return host, speeds
        profile = found
    if speeds is None:
        speeds = estimated_speeds(host, [f"gpu{number}" for number in range(gpus)])
    return host, profile.over(speeds, host)
