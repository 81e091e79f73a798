"""Files of a report: written whole, or one sentence about what stands in the way."""

from __future__ import annotations

from pathlib import Path

from scheduler.errors import UserInputError
from scheduler.whole_file import make_folder, write_whole


def write_report(path: Path, content: str | bytes) -> None:
    """Write a file by `write_whole`, and its directory if it is missing.

    Raises UserInputError where that cannot be done.
    """
    try:
        make_folder(path.parent)
        write_whole(path, content)
    except OSError as error:
        raise UserInputError(
            f"The report cannot be written to {path}: {error.strerror or error}; name a place with"
            " --out that can be written to."
        ) from None
