"""GPUs that a graphics library tells of, asked in a process of its own, since drivers crash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from scheduler.probe.sighting import Sighting

Library = Literal["Vulkan", "DXGI", "Metal"]
_SCRIPTS: dict[Library, str] = {
    "Vulkan": "vulkan_query.py",
    "DXGI": "dxgi_query.py",
    "Metal": "metal_query.py",
}
_TIMEOUT_S = 10.0


def ask(
    library: Library, environment: Mapping[str, str], timeout_s: float = _TIMEOUT_S
) -> tuple[list[Sighting], list[str]]:
    """The GPUs that a library shows, and sentences about what could not be found out.

    A missing library is no news and says nothing; one that crashes, or is silent for `timeout_s`
    seconds, does. The child gets `environment` and only Python's own modules.
    """
    script = Path(__file__).with_name(_SCRIPTS[library])
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter and code)
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=dict(environment),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], [f"{library} did not answer within {timeout_s:g} seconds; its GPUs are unknown."]
    except OSError as error:
        return [], [f"{library} could not be asked for GPUs ({error})."]
    try:
        answer = json.loads(done.stdout)
        return read_answer(library, answer)
    except (ValueError, TypeError, KeyError):
        return [], [
            f"{library} failed while it was asked for GPUs (exit code {done.returncode}); what it"
            " would have told is unknown."
        ]


def read_answer(library: Library, answer: dict[str, Any]) -> tuple[list[Sighting], list[str]]:
    """Sightings from a child's JSON: ``devices`` or a ``problem``.

    A device has the fields of `Sighting` but `source`, and ``software`` where it computes on the
    CPU: its memory is RAM and its arithmetic the processor's, so it is no GPU.
    """
    notes = []
    if answer.get("problem"):
        notes.append(f"{library} could not list GPUs: {answer['problem']}.")
    found = []
    for device in answer["devices"]:
        told = dict(device)
        if told.pop("software", False):
            notes.append(
                f"{told.get('model_name') or 'A device'} of {library} computes on the CPU and"
                " counts as no GPU."
            )
        else:
            found.append(Sighting(source=library, **told))
    return found, notes
