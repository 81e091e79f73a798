"""The model store: what a model's name means on this disk, a bundle, a checkpoint or neither.

`models/NAME` under the user's data directory has `checkpoint`, which was pulled, `origin.json`,
which says from where, and `bundle`, which was exported. What ships with glm-plan, and GGUF files
inside installed packages, are found as if they were there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler.errors import CheckpointError, UserInputError
from scheduler.hf_config import read_hf_config
from scheduler.model import ModelSpec
from scheduler.profile_files import data_dir
from scheduler.profiles import load_model, model_names, model_profile
from scheduler.strict_json import read_strict_json
from scheduler.wording import near_matches, shorten

ORIGIN_SCHEMA: Final = "glm-plan/origin/1"

_ORIGIN_BYTES_LIMIT = 4 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_MANIFEST_NAME = "manifest.json"


class RemoteFile(BaseModel):
    """A file of a repository: path with slashes, bytes, and the hub's own checksum of it.

    `digest` is ``sha256:HEX`` (large files) or ``git:HEX`` (SHA-1 of a git blob), None where the
    hub names none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    size_bytes: int = Field(ge=0)
    digest: str | None = None


class Origin(BaseModel):
    """Where a pulled checkpoint comes from; `complete` once every file is there and checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["glm-plan/origin/1"] = Field(ORIGIN_SCHEMA, alias="schema")
    repo: str
    revision: str | None = Field(description="as asked for; None for the repository's main branch")
    commit: str
    complete: bool
    files: list[RemoteFile]


@dataclass(frozen=True)
class StoredModel:
    """What there is of a model on this disk; all None for one that only has a profile.

    `checkpoint` is a directory or a GGUF file. `home` is where a bundle goes when it is exported.
    """

    name: str
    home: Path
    bundle: Path | None = None
    checkpoint: Path | None = None
    origin: Origin | None = None

    @property
    def bundle_home(self) -> Path:
        """Where `glm-plan export NAME` writes, and `--model NAME` looks first."""
        return self.home / "bundle"

    @property
    def checkpoint_home(self) -> Path:
        """Where `glm-plan pull NAME` writes."""
        return self.home / "checkpoint"

    @property
    def origin_file(self) -> Path:
        """Where a pull writes down what it fetches from where."""
        return self.home / "origin.json"


def models_dir() -> Path:
    """The folder with one directory per pulled or exported model."""
    return data_dir() / "models"


def check_store_name(name: str) -> str:
    """Return a name that can be a directory's; raises UserInputError for others."""
    if not _NAME.fullmatch(name) or name.endswith((".", ".toml")):
        raise UserInputError(
            f"{shorten(name)} cannot be the name of a model; expected up to 96 lower-case letters,"
            " digits, dots, dashes and underscores, beginning with a letter or digit."
        )
    return name


def find_model(name: str) -> StoredModel:
    """Find what a name means, by the store's names first and then by the profiles' and aliases.

    Case, and a publisher before a slash, do not count. Raises UserInputError for a name that is in
    neither, with near matches.
    """
    key = name.strip().rsplit("/", 1)[-1].casefold()
    if key in store_names():
        return stored_model(key)
    try:
        return stored_model(model_profile(name)[0])
    except UserInputError:
        names = [*model_names(), *store_names()]
        if key in model_names():  # then it is the profile that is at fault
            raise
        hint = near_matches(key, names, "`glm-plan models` lists them all.")
        raise UserInputError(f"Model {shorten(name)} is unknown; {hint}") from None


def store_names() -> list[str]:
    """Names of all models that were pulled or exported into the store, whole or not."""
    try:
        entries = list(models_dir().iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserInputError(
            f"{models_dir()} cannot be read: {error.strerror or error}; set GLM_PLAN_DATA_DIR to"
            " another directory."
        ) from None
    return sorted(one.name for one in entries if _NAME.fullmatch(one.name) and one.is_dir())


def stored_model(name: str) -> StoredModel:
    """What there is of the model `name`, which must be a profile's or the store's own name.

    The user's own bundle and checkpoint go before what ships and what packages hold.
    """
    home = models_dir() / name
    model = StoredModel(name, home)
    shipped = Path(str(files("profiles"))) / "models"
    bundles = [model.bundle_home, shipped / f"{name}-bundle"]
    bundle = next((one for one in bundles if (one / _MANIFEST_NAME).is_file()), None)
    origin = _read_origin(model.origin_file)
    checkpoint: Path | None = None
    if origin is not None and origin.complete:
        checkpoint = _checkpoint(model.checkpoint_home, origin)
    elif (shipped / name / "config.json").is_file():
        checkpoint = shipped / name
    elif name in model_names():
        checkpoint = _packaged(name)
    return StoredModel(name, home, bundle, checkpoint, origin)


def _read_origin(file: Path) -> Origin | None:
    """What a pull wrote down; None where there is nothing or it is damaged."""
    try:
        return Origin.model_validate(read_strict_json(file, _ORIGIN_BYTES_LIMIT))
    except (ValueError, ValidationError):
        return None


def spec_of_model(model: StoredModel) -> ModelSpec:
    """The geometry by the model's profile, or by the configuration of what was pulled.

    Raises UserInputError for a configuration that cannot be planned, and for a model that has
    neither.
    """
    if model.name in model_names():
        return load_model(model.name)
    if model.checkpoint is None:
        raise UserInputError(
            f"{model.name} has no profile to plan by; export it first:"
            f" `glm-plan export {model.name}`."
        )
    if model.checkpoint.suffix.lower() == ".gguf":
        # With NumPy, which planning by profile does without.
        from runtime.export.decoder_config import spec_of
        from runtime.export.gguf_source import GgufSource

        try:
            return replace(spec_of(GgufSource(model.checkpoint).config), name=model.name)
        except CheckpointError as error:
            raise UserInputError(str(error)) from error
    return replace(read_hf_config(model.checkpoint), name=model.name)


def repository_of(name: str) -> str | None:
    """The repository that a model's profile names, if it has a profile that does."""
    if name not in model_names():
        return None
    source = model_profile(name)[1].checkpoint
    return source.repo if source else None


def packaged_gguf(package: str) -> Path | None:
    """The one GGUF file inside an installed distribution, without importing it; None without."""
    try:
        listed = distribution(package).files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(one.locate())) for one in listed if one.suffix.lower() == ".gguf"]
    return found[0] if len(found) == 1 and found[0].is_file() else None


def _packaged(name: str) -> Path | None:
    source = model_profile(name)[1].checkpoint
    return packaged_gguf(source.package) if source and source.package else None


def _checkpoint(home: Path, origin: Origin) -> Path:
    """The directory, or the (first) GGUF file where that is what there is to export."""
    gguf = sorted(one.path for one in origin.files if one.path.lower().endswith(".gguf"))
    return home / gguf[0] if gguf else home
