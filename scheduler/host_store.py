"""Host profiles in the user's configuration directory, one JSON file each.

`glm-plan calibrate` writes them; the planner takes the one that matches the machine it runs on, or
the one that the user names.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from scheduler.errors import UserInputError
from scheduler.hardware import Cpu
from scheduler.host_profile import HOST_NAME, HOST_SCHEMA, HostProfile
from scheduler.json_file import first_fault, read_document
from scheduler.profile_files import config_dir
from scheduler.whole_file import make_folder, write_whole
from scheduler.wording import near_matches, shorten

_LARGEST_MIB = 1


def hosts_dir() -> Path:
    """Where host profiles are kept, one JSON file each."""
    return config_dir() / "hosts"


def host_names() -> list[str]:
    """Names of all stored profiles."""
    folder = hosts_dir()
    return sorted(file.stem for file in folder.glob("*.json")) if folder.is_dir() else []


def check_host_name(name: str) -> str:
    """Return a name that can be a file's; raises UserInputError for others."""
    if not HOST_NAME.fullmatch(name):
        raise UserInputError(
            f"--name is {shorten(name)}; expected up to 64 letters, digits, dots, dashes and"
            " underscores, beginning with a letter or digit."
        )
    return name


def save_host(profile: HostProfile) -> Path:
    """Write a profile by `write_whole`; returns its file.

    Raises UserInputError when it cannot be written.
    """
    path = hosts_dir() / f"{profile.name}.json"
    text = json.dumps(profile.model_dump(mode="json", by_alias=True), indent=1) + "\n"
    try:
        make_folder(path.parent)
        write_whole(path, text)
    except OSError as error:
        raise UserInputError(
            f"The profile cannot be written to {path}: {error.strerror or error}; set"
            " GLM_PLAN_CONFIG_DIR to a directory that can be written to."
        ) from None
    return path


def load_host(name: str) -> HostProfile:
    """Read a stored profile by name; raises UserInputError for an unknown or damaged one."""
    names = host_names()
    if name not in names:
        hint = near_matches(name, names) if names else "make one with `glm-plan calibrate`."
        raise UserInputError(f"Host {shorten(name)} is unknown; {hint}")
    return _read(hosts_dir() / f"{name}.json")


def matching_host(cpu: Cpu) -> tuple[HostProfile | None, list[str]]:
    """The newest profile measured on this processor with as many cores, and remarks on others.

    A damaged file is left out with a remark, since nobody asked for it.
    """
    found: list[HostProfile] = []
    remarks = []
    for name in host_names():
        try:
            profile = _read(hosts_dir() / f"{name}.json")
        except UserInputError as error:
            remarks.append(f"{error} It is left out.")
            continue
        measured = profile.cpu
        if measured and (measured.model_name, measured.usable_cores) == (
            cpu.model_name,
            cpu.usable_cores,
        ):
            found.append(profile)
    return max(found, key=lambda profile: profile.made, default=None), remarks


def _read(path: Path) -> HostProfile:
    again = "make it anew with `glm-plan calibrate`"
    document = read_document(path, HOST_SCHEMA, _LARGEST_MIB, UserInputError, again)
    try:
        profile = HostProfile.model_validate(document)
    except ValidationError as error:
        raise UserInputError(f"{path}: {first_fault(error)}; {again}.") from None
    if profile.name != path.stem:
        raise UserInputError(f"{path} names the host {shorten(profile.name)}; {again}.")
    return profile
