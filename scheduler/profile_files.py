"""Where profiles live, those that ship and the user's own, and how one file is read and refused."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scheduler.errors import UserInputError
from scheduler.wording import near_matches, show_value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    Schema = TypeVar("Schema", bound=BaseModel)

Kind = Literal["models", "devices"]
_LARGEST_FILE_BYTES = 1 << 20


def config_dir() -> Path:
    """The user's configuration directory: GLM_PLAN_CONFIG_DIR, or where the platform keeps such."""
    own = os.environ.get("GLM_PLAN_CONFIG_DIR")
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("APPDATA")
        return Path(base or Path.home() / "AppData" / "Roaming") / "glm-plan"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "glm-plan"
    base = os.environ.get("XDG_CONFIG_HOME")
    return Path(base if base and Path(base).is_absolute() else Path.home() / ".config") / "glm-plan"


def profile_files(kind: Kind) -> dict[str, Path]:
    """Map the lower-case stem of every profile to its file; the user's own replace shipped ones.

    Raises UserInputError where the user's directory exists and cannot be read.
    """
    own = config_dir() / kind
    found = {
        file.stem.casefold(): file for file in _toml_files(Path(str(files("profiles"))) / kind)
    }
    if own.is_dir():
        try:
            found |= {file.stem.casefold(): file for file in _toml_files(own)}
        except OSError as error:
            raise UserInputError(f"{own} cannot be read: {error.strerror or error}.") from error
    return dict(sorted(found.items()))


def read_profile(file: Path, schema: type[Schema]) -> Schema:
    """Read one TOML file and check it against a pydantic model.

    Raises UserInputError that names the file, the key and what was expected.
    """
    from pydantic import ValidationError

    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UserInputError(f"{file} cannot be read: {error.strerror or error}.") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise UserInputError(f"{file} is over 1 MiB; a profile is a few KiB of TOML.")
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise UserInputError(f"{file} is not UTF-8 text; a profile is a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"{file} is not valid TOML: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserInputError(f"{file} is not valid TOML: a value is too large or deep.") from error
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise UserInputError(f"{file}: {_first_fault(error, schema)}") from None


def _toml_files(directory: Path) -> list[Path]:
    return [entry for entry in directory.iterdir() if entry.suffix.lower() == ".toml"]


def _first_fault(error: ValidationError, schema: type[BaseModel]) -> str:
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"] if part not in ("float", "list[float]"))
    if fault["type"] == "missing":
        return f"{key} is missing."
    if fault["type"] == "extra_forbidden":
        known = [name for name in _keys(schema, fault["loc"][:-1]) if name]
        return f"{key[:80]} is no key of a profile; {near_matches(str(fault['loc'][-1]), known)}"
    return f"{key or 'the file'} is {show_value(fault['input'])}; {_expectation(fault)}."


def _keys(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that a profile may have at this path of tables."""
    for part in path:
        if isinstance(part, str) and part in schema.model_fields:
            schema = _table(schema.model_fields[part].annotation) or schema
    return [field.alias or name for name, field in schema.model_fields.items()]


def _table(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel

    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _expectation(fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
