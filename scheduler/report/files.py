"""Files: write whole reports, or none, and say in one sentence what stands in the way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from scheduler.errors import UserInputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the whole new one, never a part.

    The directory is made if it is missing. Raises UserInputError where that cannot be done.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise UserInputError(
            f"The report cannot be written to {path}: {error.strerror or error}; name a place with"
            " --out that can be written to."
        ) from None
