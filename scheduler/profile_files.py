"""Where profiles live, those that ship and the user's own, and how one file is read and refused."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scheduler.errors import UserInputError
from scheduler.toml_file import read_toml
from scheduler.wording import near_matches, show_value

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    Schema = TypeVar("Schema", bound=BaseModel)

Kind = Literal["models", "devices"]


def config_dir() -> Path:
    """The user's configuration directory: GLM_PLAN_CONFIG_DIR, or where the platform keeps such."""
    return _own_dir("CONFIG", "APPDATA", "Roaming", "XDG_CONFIG_HOME", ".config")


def data_dir() -> Path:
    """The user's directory for large files: GLM_PLAN_DATA_DIR, or where the platform keeps such."""
    return _own_dir("DATA", "LOCALAPPDATA", "Local", "XDG_DATA_HOME", ".local/share")


def profile_files(kind: Kind) -> dict[str, Path]:
    """Map the lower-case stem of every profile to its file: shipped ones, then the user's own.

    A file of the user's takes the place of a shipped one of the same name.

    Raises UserInputError where the user's directory exists and cannot be read.
    """
    own = config_dir() / kind
    shipped = _toml_files(Path(str(files("profiles"))) / kind)
    try:
        mine = _toml_files(own) if own.is_dir() else {}
    except OSError as error:
        raise UserInputError(f"{own} cannot be read: {error.strerror or error}.") from error
    return {stem: file for stem, file in shipped.items() if stem not in mine} | mine


def read_profile(file: Path, schema: type[Schema], what: str = "profile") -> Schema:
    """Read one TOML file and check it against a pydantic model; `what` names its kind.

    Raises UserInputError that names the file, the key and what was expected.
    """
    from pydantic import ValidationError

    document = read_toml(file, str(file), f"a {what}")
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise UserInputError(f"{file}: {_first_fault(error, schema, what)}") from None


def _own_dir(kind: str, windows: str, folder: str, xdg: str, default: str) -> Path:
    """The directory of a kind: our own variable, then the platform's, then its place at home."""
    variable = f"GLM_PLAN_{kind}_DIR"
    own = os.environ.get(variable)
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get(windows)
        return Path(base or _home(variable) / "AppData" / folder) / "glm-plan"
    if sys.platform == "darwin":
        return _home(variable) / "Library" / "Application Support" / "glm-plan"
    base = os.environ.get(xdg)
    absolute = base and Path(base).is_absolute()  # the XDG specification: ignore other paths
    return Path(base if base and absolute else _home(variable) / default) / "glm-plan"


def _home(instead: str) -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UserInputError(f"This user has no home directory; set {instead}.") from error


def _toml_files(directory: Path) -> dict[str, Path]:
    entries = sorted(directory.iterdir())
    return {file.stem.casefold(): file for file in entries if file.suffix.lower() == ".toml"}


def _first_fault(error: ValidationError, schema: type[BaseModel], what: str) -> str:
    fault = error.errors(include_url=False)[0]
    key = _path(fault["loc"])
    if fault["type"] == "missing":
        return f"{key} is missing."
    if fault["type"] == "extra_forbidden":
        known = [name for name in _keys(schema, fault["loc"][:-1]) if name]
        return f"{key} is no key of a {what}; {near_matches(str(fault['loc'][-1]), known)}"
    if fault["type"] == "value_error":
        return f"{_expectation(fault)}."
    return f"{key or 'the file'} is {show_value(fault['input'])}; {_expectation(fault)}."


def _path(parts: tuple[int | str, ...]) -> str:
    """Spell the place of a fault as gpu[0].memory_gib; at most 100 characters."""
    text = ""
    for part in parts:
        if part not in ("size", "sizes"):  # the two forms of memory_gib
            text += f"[{part}]" if isinstance(part, int) else f".{part}"
    text = text.removeprefix(".")[:100]
    return text if text.isprintable() else repr(text)


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
