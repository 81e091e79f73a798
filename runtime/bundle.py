"""Bundle: a directory with an exported model; how to open it, trust it, and pick from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from pydantic import ValidationError

from runtime.manifest import (
    BUNDLE_SCHEMA,
    MANIFEST_NAME,
    BundleFile,
    Embedding,
    Layout,
    Manifest,
    Part,
    SpecialTokens,
    Tokenizer,
    Variant,
)
from scheduler.backend_names import Engine
from scheduler.errors import BundleError
from scheduler.plan import Precision
from scheduler.strict_json import read_strict_json, validation_sentence
from scheduler.wording import show_value

__all__ = [
    "BUNDLE_SCHEMA",
    "MANIFEST_NAME",
    "Bundle",
    "BundleFile",
    "Embedding",
    "Manifest",
    "Part",
    "Selection",
    "SpecialTokens",
    "Tokenizer",
    "Variant",
    "hash_file",
    "open_bundle",
    "read_manifest",
    "require_unchanged",
    "select_variant",
    "verify_bundle",
]

_MANIFEST_BYTES_LIMIT = 16 << 20
_HASH_CHUNK_BYTES = 4 << 20
_LONGEST_NAME_BYTES = 255  # what file systems take


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file of ``manifest`` exists under ``path`` with its size."""

    path: Path
    manifest: Manifest
    layout: Layout = "glm-plan"

    def file(self, file: BundleFile) -> Path:
        """Where a file of the manifest lies on disk."""
        return self.path / file.path


@dataclass(frozen=True)
class Selection:
    """The variant that serves a request; ``note`` is a sentence when stored otherwise."""

    variant: Variant
    requested: Precision
    note: str | None = None


def open_bundle(path: Path, *, verify: bool = False) -> Bundle:
    """Open the bundle at ``path``; with ``verify``, also compare every checksum.

    Raises BundleError when it is not a bundle, is incomplete, of another schema version, damaged,
    or when a file lies outside of it.
    """
    manifest = read_manifest(path)
    root = path.resolve()
    for file in manifest.files():
        _require_present(path, root, file)
    bundle = Bundle(path, manifest)
    if verify:
        verify_bundle(bundle)
    return bundle


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at ``path``, its files unseen; BundleError when unusable."""
    if not path.is_dir():
        raise BundleError(
            f"{path} is not a directory; expected a bundle, which `glm-plan export` makes from a"
            " checkpoint."
        )
    manifest_path = path / MANIFEST_NAME
    try:
        document = read_strict_json(manifest_path, _MANIFEST_BYTES_LIMIT)
    except ValueError as error:
        raise BundleError(
            f"{manifest_path} {error}; expected a complete bundle, which `glm-plan export` makes."
        ) from error
    if document.get("schema") != BUNDLE_SCHEMA:
        raise BundleError(
            f"{manifest_path} has the schema {show_value(document.get('schema'))}; this version"
            f" reads {BUNDLE_SCHEMA!r}, export the checkpoint again."
        )
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        raise BundleError(
            f"{manifest_path} is not usable: {validation_sentence(error)}; export the checkpoint"
            " again."
        ) from error
    unsigned = [file.path for file in manifest.files() if file.sha256 is None]
    if unsigned or manifest.source_sha256 is None:
        raise BundleError(
            f"{manifest_path} is not usable: {', '.join(unsigned[:1]) or 'source_sha256'} has no"
            " checksum; export the checkpoint again."
        )
    return manifest


def require_unchanged(bundle: Bundle) -> None:
    """Raise BundleError where another bundle has taken the place of the opened one since.

    Files that were loaded meanwhile may be of either. One that only gained variants is the same.
    """
    if bundle.layout == "article":
        return
    now = {file.path: file for file in read_manifest(bundle.path).files()}
    if any(now.get(file.path) != file for file in bundle.manifest.files()):
        raise BundleError(
            f"{bundle.path} was replaced by another export while it was being loaded; start again."
        )


def select_variant(
    manifest: Manifest, part: str, engine: Engine, precision: Precision
) -> Selection:
    """The files that run ``part`` on ``engine`` at ``precision``.

    An exact match wins (the smallest weight block first, the most exact). Both engines can hold
    fp16 weights as fp32, so an fp16 file serves an fp32 request; and an lm_head that is stored more
    exactly than asked for serves too. The selection's note says so.
    Raises BundleError naming what there is.
    """
    found = next((one for one in manifest.parts if one.name == part), None)
    if found is None:
        raise BundleError(
            f"The bundle of {manifest.model} has no part {part!r}; it has block_0 to"
            f" block_{manifest.geometry.blocks - 1} and lm_head."
        )
    variants = [one for one in found.variants if one.engine == engine]
    exact = [one for one in variants if one.precision == precision]
    if exact:
        # No weight block means one scale per row: the coarsest.
        return Selection(min(exact, key=lambda one: one.weight_block or 1 << 31), precision)
    if part == "lm_head" and (finer := _finer(variants, precision)) is not None:
        note = f"lm_head at {precision} is served by its {finer.precision} files, more exact."
        return Selection(finer, precision, note)
    half = next((one for one in variants if one.precision == "fp16"), None)
    if precision == "fp32" and half is not None:
        loss = (
            "without loss, since the checkpoint is fp16"
            if manifest.source_precision == "fp16"
            else f"rounded to fp16 from {manifest.source_precision}"
        )
        return Selection(half, precision, f"fp32 is served by fp16 files, {loss}.")
    available = sorted({f"{one.engine} {one.precision}" for one in found.variants})
    raise BundleError(
        f"The bundle of {manifest.model} has {part} as {', '.join(available)}, not as {engine}"
        f" {precision}; export it with --precision {precision} --backend {engine}, or ask for what"
        " there is."
    )


def served_precisions(part: Part, engine: Engine) -> frozenset[Precision]:
    """The precisions that `select_variant` finds for ``part``, but for fp32 from fp16 files."""
    variants = [one for one in part.variants if one.engine == engine]
    exact = frozenset(one.precision for one in variants)
    if part.name != "lm_head":
        return exact
    return exact | {one for one in get_args(Precision) if _finer(variants, one) is not None}


def _finer(variants: list[Variant], precision: Precision) -> Variant | None:
    """The least exact of those that are more exact than asked for."""
    order = get_args(Precision)  # the most exact first
    finer = [one for one in variants if order.index(one.precision) < order.index(precision)]
    return max(finer, key=lambda one: order.index(one.precision), default=None)


def verify_bundle(
    bundle: Bundle, *, threads: int = 4, on_file: Callable[[BundleFile], None] | None = None
) -> None:
    """Compare the SHA-256 of every file with the manifest; ``on_file`` hears of each match.

    Raises BundleError naming the first file that differs.
    """
    files = list({file.path: file for file in bundle.manifest.files()}.values())
    with ThreadPoolExecutor(threads) as pool:
        # hashlib releases the GIL for large buffers, so threads use all cores.
        for file, digest in zip(
            files, pool.map(lambda one: hash_file(bundle.file(one)), files), strict=True
        ):
            if digest != file.sha256:
                pool.shutdown(wait=False, cancel_futures=True)
                raise BundleError(
                    f"{bundle.file(file)} does not match its checksum in {MANIFEST_NAME}; export or"
                    " copy the bundle again."
                )
            if on_file is not None:
                on_file(file)


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex; BundleError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()


def _require_present(path: Path, root: Path, file: BundleFile) -> None:
    plain = PurePosixPath(file.path)
    characters_ok = file.path.isprintable() and "\\" not in file.path and ":" not in file.path
    characters_ok &= all(len(part.encode()) <= _LONGEST_NAME_BYTES for part in plain.parts)
    if plain.is_absolute() or ".." in plain.parts or not characters_ok:
        raise BundleError(
            f"{path / MANIFEST_NAME} refers to {file.path!r}, outside the bundle; expected a path"
            " inside it."
        )
    target = path / plain
    try:
        resolved = target.resolve()
    except (OSError, RuntimeError) as error:  # links that lead in a circle
        raise BundleError(f"{target} leads nowhere ({error}); copy the file itself.") from error
    if not resolved.is_relative_to(root):
        raise BundleError(
            f"{target} is a link to {resolved}, outside the bundle; copy the file itself."
        )
    if not resolved.is_file():
        raise BundleError(
            f"{target} is missing; the bundle is incomplete, export or copy it again."
        )
    size_bytes = resolved.stat().st_size
    if size_bytes != file.size_bytes:
        raise BundleError(
            f"{target} has {size_bytes} bytes, {MANIFEST_NAME} says {file.size_bytes}; export or"
            " copy the bundle again."
        )
