"""Pull: a model's checkpoint from a Hugging Face hub into the store, whole or not at all.

A file takes its place only when its checksum is right, and the model counts as pulled when all
have. What an interrupted pull has fetched is kept, half a file included.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runtime.model_store import (
    Origin,
    RemoteFile,
    StoredModel,
    check_store_name,
    repository_of,
    stored_model,
)
from runtime.pull_files import choose_files
from runtime.pull_hub import fetch, list_repository, require_hub
from scheduler.errors import UserInputError
from scheduler.file_lock import LockedError, hold_lock
from scheduler.profiles import model_names, model_profile
from scheduler.units import MIB, format_size
from scheduler.whole_file import make_folder, write_whole
from scheduler.wording import listing, near_matches, shorten

_DISK_SPARE_BYTES = 64 * MIB


@dataclass(frozen=True)
class PullRequest:
    """What to pull: `text` is a model's name or OWNER/NAME; see `choose_files` for `patterns`."""

    text: str
    revision: str | None = None
    patterns: Sequence[str] = ()
    name: str | None = None
    force: bool = False


class Progress(NamedTuple):
    """The file in work, and bytes on the disk of all bytes."""

    path: str
    done_bytes: int
    total_bytes: int


class Pulled(NamedTuple):
    """What is there now, and how many bytes this pull fetched for it."""

    model: StoredModel
    origin: Origin
    fetched_bytes: int


OnProgress = Callable[[Progress], None]


def pull_model(request: PullRequest, on_progress: OnProgress = lambda _: None) -> Pulled:
    """Fetch what is missing of a model; does nothing when it is there at the hub's newest commit.

    Raises UserInputError for the request or a disk that fails or is too small, CheckpointError for
    the repository and whatever the network does.
    """
    require_hub()
    repo, name = resolve(request)
    model = stored_model(name)
    _require_same(model, repo, request)
    commit, files = list_repository(repo, request.revision)
    chosen = choose_files(repo, files, request.patterns)
    _require_no_other_gguf(model, chosen, request)
    origin = Origin(
        repo=repo, revision=request.revision, commit=commit, complete=False, files=chosen
    )
    try:
        return _pull(model, origin, on_progress)
    except OSError as error:
        raise UserInputError(
            f"Writing to {error.filename or model.home} failed: {error.strerror or error}; make"
            " room, or set GLM_PLAN_DATA_DIR to another directory. What was fetched is kept."
        ) from None


def resolve(request: PullRequest) -> tuple[str, str]:
    """The repository, and the name in the store: the profile's where there is one.

    Raises UserInputError for an unknown name, with near matches, and for a model without a
    repository.
    """
    text = request.text.strip()
    known = {name: repo for name in model_names() if (repo := repository_of(name))}
    if "/" in text:
        of_repo = {repo.casefold(): name for name, repo in known.items()}
        default = of_repo.get(text.casefold()) or _profile_name(text)
        default = default or text.rsplit("/", 1)[-1].casefold()
        return text, check_store_name(request.name or default)
    name = _profile_name(text)
    if name is None:
        hint = near_matches(text, list(known), "`glm-plan models` lists them all.")
        raise UserInputError(
            f"Model {shorten(text)} is unknown; {hint} Any other is pulled as OWNER/NAME."
        )
    if name not in known:
        raise UserInputError(
            f"{name} has no repository to pull from"
            + (": it ships with glm-plan." if stored_model(name).bundle else ".")
        )
    return known[name], check_store_name(request.name or name)


def _pull(model: StoredModel, origin: Origin, on_progress: OnProgress) -> Pulled:
    make_folder(model.checkpoint_home)
    try:
        with hold_lock(model.home / "pull.lock"):
            missing = _begin(model, origin)
            fetched_bytes = _fetch_all(model, origin, missing, on_progress)
            _write(model.origin_file, origin.model_copy(update={"complete": True}))
    except LockedError:
        raise UserInputError(
            f"Another glm-plan is pulling {model.name}; wait until it is done."
        ) from None
    return Pulled(stored_model(model.name), origin, fetched_bytes)


def _begin(model: StoredModel, origin: Origin) -> list[RemoteFile]:
    """Keep what an earlier pull fetched of the same files, remove the rest, write down the plan.

    From then on a file in the folder is one that `origin` lists, checked when it was put there.
    """
    before = stored_model(model.name).origin
    same = set()
    if before is not None:
        same = {
            one.path
            for one in origin.files
            if one in before.files and (one.digest or before.commit == origin.commit)
        }
    folder = model.checkpoint_home
    for file in folder.rglob("*"):
        path = file.relative_to(folder).as_posix()
        if file.is_file() and path not in same and path.removesuffix(".partial") not in same:
            file.unlink()
    missing = [one for one in origin.files if not (folder / one.path).is_file()]
    _require_disk(folder, missing)
    if missing or before is None or not before.complete:
        _write(model.origin_file, origin)
    return missing


def _fetch_all(
    model: StoredModel, origin: Origin, missing: list[RemoteFile], on_progress: OnProgress
) -> int:
    total_bytes = sum(one.size_bytes for one in origin.files)
    done_bytes = total_bytes - sum(one.size_bytes for one in missing)
    had_bytes = done_bytes + sum(_partial_bytes(model.checkpoint_home, one) for one in missing)
    for file in missing:
        before_bytes = done_bytes

        def on_bytes(file_bytes: int, file: RemoteFile = file, before: int = before_bytes) -> None:
            on_progress(Progress(file.path, before + file_bytes, total_bytes))

        fetch(origin.repo, origin.commit, file, model.checkpoint_home / file.path, on_bytes)
        done_bytes += file.size_bytes
    return total_bytes - had_bytes


def _require_disk(folder: Path, missing: list[RemoteFile]) -> None:
    needed = sum(one.size_bytes - _partial_bytes(folder, one) for one in missing)
    free = shutil.disk_usage(folder).free
    if needed + _DISK_SPARE_BYTES > free:
        raise UserInputError(
            f"{folder} has {format_size(free)} free and this needs {format_size(needed)} more; make"
            " room, or set GLM_PLAN_DATA_DIR to a directory on another disk."
        )


def _partial_bytes(folder: Path, file: RemoteFile) -> int:
    partial = folder / f"{file.path}.partial"
    return min(partial.stat().st_size, file.size_bytes) if partial.is_file() else 0


def _require_same(model: StoredModel, repo: str, request: PullRequest) -> None:
    there = model.origin
    if there and there.repo.casefold() != repo.casefold() and not request.force:
        raise UserInputError(
            f"{model.name} holds {there.repo} already; add --name NAME to keep both, or --force to"
            " replace it."
        )


def _require_no_other_gguf(
    model: StoredModel, chosen: list[RemoteFile], request: PullRequest
) -> None:
    if request.force or model.origin is None or not model.origin.complete:
        return
    there = [one.path for one in model.origin.files]
    if set(there) & {one.path for one in chosen}:
        return
    raise UserInputError(
        f"{model.name} holds {listing(there, 'and')} already; add --name NAME to keep both, or"
        " --force to replace it."
    )


def _profile_name(text: str) -> str | None:
    try:
        return model_profile(text)[0]
    except UserInputError:
        return None


def _write(file: Path, origin: Origin) -> None:
    write_whole(file, json.dumps(origin.model_dump(by_alias=True), indent=1) + "\n")
