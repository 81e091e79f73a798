"""TOML that people write: read with bounds of size, depth and time, refused in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from scheduler.errors import UserInputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LARGEST_FILE_BYTES = 1 << 17
_LONGEST_LINE_BYTES = 1000  # tomllib takes square time and memory in the dots of a key


def read_toml(file: Path, name: str, what: str) -> dict[str, Any]:
    """The tables of a TOML file; sentences begin with `name`, and `what` says what it should be.

    Raises UserInputError for a file that cannot be read, is over 128 KiB, has a line of over 1,000
    bytes or is not TOML.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UserInputError(f"{name} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a name with a null character
        raise UserInputError(f"{name} cannot be read: {error}.") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise UserInputError(f"{name} is over 128 KiB; {what} is a few KiB of TOML.")
    if any(len(line) > _LONGEST_LINE_BYTES for line in content.splitlines()):
        raise UserInputError(f"{name} has a line of over 1,000 bytes; break it up.")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise UserInputError(f"{name} is not UTF-8 text; {what} is a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"{name} is not valid TOML: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserInputError(f"{name} is not valid TOML: a value is too large or deep.") from error
