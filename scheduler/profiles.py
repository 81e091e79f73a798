"""Named models and devices: those that ship with glm-plan, and the user's own beside them.

The user's profiles are TOML files in models/ and devices/ of the configuration directory, in the
form of the shipped ones; one of the same name takes the shipped one's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from scheduler.device_profiles import CpuProfile, GpuProfile, RamProfile
from scheduler.errors import UserInputError
from scheduler.names import find_name, matching_names
from scheduler.profile_files import profile_files, read_profile
from scheduler.wording import near_matches, shorten

if TYPE_CHECKING:
    from scheduler.model import ModelSpec
    from scheduler.profile_schema import DeviceFile, ModelFile

_MEMORY_TOLERANCE = 0.1  # drivers keep some of the memory for themselves and report the rest

_SEE_MODELS = "`glm-plan models` lists them all."
_SEE_GPUS = "`glm-plan gpus` lists them all."

Device = TypeVar("Device", GpuProfile, CpuProfile, RamProfile)


def model_names() -> list[str]:
    """Names of all model profiles, without reading them."""
    return sorted(profile_files("models"))


def load_model(name: str) -> ModelSpec:
    """Load a model by name or alias; case, and a publisher before a slash, do not count.

    Only the model's own file is read, or all of them for an alias. Raises UserInputError for an
    unknown name, with near matches, and for a file that cannot be used.
    """
    stem, profile = model_profile(name)
    return profile.spec(stem)


def model_profile(name: str) -> tuple[str, ModelFile]:
    """Find a model's own name and its whole profile by name or alias; see `load_model`."""
    from scheduler.profile_schema import ModelFile

    files = profile_files("models")
    key = name.strip().rsplit("/", 1)[-1].casefold()
    if key in files:
        return key, read_profile(files[key], ModelFile)
    for stem, file in files.items():
        profile = read_profile(file, ModelFile)
        if key in map(str.casefold, profile.aliases):
            return stem, profile
    raise UserInputError(
        f"Model {shorten(name)} is unknown; {near_matches(key, list(files), _SEE_MODELS)}"
    )


def load_models() -> list[ModelSpec]:
    """Load every model profile, by name."""
    return [load_model(name) for name in model_names()]


def load_gpus() -> list[GpuProfile]:
    """Load every GPU profile in the files' order; the user's own win over shipped ones."""
    return _devices(lambda file: file.gpus())


def load_cpus() -> list[CpuProfile]:
    """Load every processor class."""
    return _devices(lambda file: file.cpus())


def load_rams() -> list[RamProfile]:
    """Load every memory class."""
    return _devices(lambda file: file.rams())


def find_gpu(name: str, total_bytes: int | None = None) -> GpuProfile:
    """Find the one GPU that a name means, such as "rtx 2080 ti" or a driver's spelling of it.

    `total_bytes` decides between models of one name and several memory sizes. Raises UserInputError
    with the candidates where more than one fits, or with near matches where none does.
    """
    gpus = load_gpus()
    if total_bytes is not None:
        candidates = matching_names(name, _spellings(gpus))
        sized = [
            gpu
            for gpu in gpus
            if gpu.name in candidates
            and abs(gpu.memory_bytes - total_bytes) <= _MEMORY_TOLERANCE * gpu.memory_bytes
        ]
        if len(sized) == 1:
            return sized[0]
    return _find(name, gpus, "GPU", _SEE_GPUS)


def find_cpu(name: str) -> CpuProfile:
    """Find the one processor class that a name means; raises UserInputError as `find_gpu`."""
    return _find(name, load_cpus(), "CPU")


def find_ram(name: str) -> RamProfile:
    """Find the one memory class that a name means; raises UserInputError as `find_gpu`."""
    return _find(name, load_rams(), "Memory class")


def _devices(choose: Callable[[DeviceFile], list[Device]]) -> list[Device]:
    from scheduler.profile_schema import DeviceFile

    found: dict[str, Device] = {}
    for file in profile_files("devices").values():
        found |= {device.name: device for device in choose(read_profile(file, DeviceFile))}
    return list(found.values())


def _spellings(devices: Iterable[Device]) -> dict[str, tuple[str, ...]]:
    return {device.name: device.aliases for device in devices}


def _find(name: str, devices: list[Device], kind: str, otherwise: str | None = None) -> Device:
    found = find_name(name, _spellings(devices), kind, otherwise)
    return next(device for device in devices if device.name == found)
