"""What is on this disk of a model, in sizes and precisions, from small files alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.bundle import Bundle, read_manifest
from runtime.bundle_spec import spec_of_bundle
from runtime.manifest import Manifest
from runtime.model_store import StoredModel, find_model, spec_of_model
from scheduler.errors import BundleError, GlmPlanError
from scheduler.model import ModelSpec
from scheduler.plan import Precision


@dataclass(frozen=True)
class OnDisk:
    """Paths and bytes of bundle and checkpoint, None where there is none.

    `precisions` are those that every part of the bundle has; `fault` is the sentence about a bundle
    that cannot be read. Bytes are those that manifest and origin state. `interrupted` tells of a
    pull that has not fetched everything yet.
    """

    bundle: Path | None = None
    bundle_bytes: int | None = None
    precisions: tuple[Precision, ...] = ()
    checkpoint: Path | None = None
    checkpoint_bytes: int | None = None
    fault: str | None = None
    interrupted: bool = False

    @property
    def nothing(self) -> bool:
        """Whether nothing of the model is on the disk."""
        return self.bundle is None and self.checkpoint is None and not self.interrupted


def look_at(model: StoredModel) -> tuple[OnDisk, ModelSpec | None]:
    """What there is of a model, and its geometry: its own bundle's, its profile's or its config's.

    The geometry is None for a model that has none of these yet, such as a pulled GGUF file, or one
    that cannot be read.
    """
    manifest, fault = _manifest(model)
    disk = OnDisk(
        bundle=model.bundle,
        bundle_bytes=manifest.size_bytes if manifest else None,
        precisions=_precisions(manifest) if manifest else (),
        checkpoint=model.checkpoint,
        checkpoint_bytes=_checkpoint_bytes(model),
        fault=fault,
        interrupted=model.origin is not None and not model.origin.complete,
    )
    if manifest and model.bundle and model.bundle == model.bundle_home:
        return disk, replace(spec_of_bundle(Bundle(model.bundle, manifest)), name=model.name)
    try:
        return disk, spec_of_model(model)
    except GlmPlanError:
        return disk, None


def spec_by_name(name: str) -> ModelSpec:
    """The geometry that a model's name means; see `look_at`.

    Raises UserInputError for an unknown name, and for a model without a known geometry.
    """
    model = find_model(name)
    return look_at(model)[1] or spec_of_model(model)


def _manifest(model: StoredModel) -> tuple[Manifest | None, str | None]:
    if model.bundle is None:
        return None, None
    try:
        return read_manifest(model.bundle), None
    except BundleError as error:
        return None, str(error)


def _precisions(manifest: Manifest) -> tuple[Precision, ...]:
    every = [{one.precision for one in part.variants} for part in manifest.parts]
    order: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
    return tuple(one for one in order if all(one in part for part in every))


def _checkpoint_bytes(model: StoredModel) -> int | None:
    path = model.checkpoint
    if path is None:
        return None
    if model.origin and model.origin.complete:
        return sum(one.size_bytes for one in model.origin.files)
    files = [path] if path.is_file() else path.iterdir()
    return sum(one.stat().st_size for one in files)
