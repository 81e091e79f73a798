"""Export: checkpoint in, bundle out; one block in memory at a time, believed only when whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.bundle import (
    MANIFEST_NAME,
    Bundle,
    Embedding,
    Manifest,
    Part,
    Variant,
    hash_file,
    open_bundle,
)
from runtime.export.embedding_rows import encoded_rows
from runtime.export.files import describe, write_rows
from runtime.export.model_source import ModelSource
from runtime.export.open_model import open_model
from runtime.export.ort_encodings import ort_encodings
from runtime.export.parts import LM_HEAD, PartMaker
from runtime.export.publish import publish, restore
from runtime.export.request import (
    DEFAULT_PRECISIONS,
    Encoding,
    ExportRequest,
    OnProgress,
    choose_encodings,
)
from runtime.export.resources import choose_jobs, require_disk, work_bytes
from runtime.export.tracker import Tracker
from runtime.export.workspace import Workspace, only_export
from runtime.manifest import LONGEST_NAME, VALUE_BYTES
from scheduler.errors import BundleError, UserInputError
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.probe import probe_host
from scheduler.whole_file import write_whole

_HASH_THREADS = 4


def export_bundle(request: ExportRequest, on_progress: OnProgress = lambda _: None) -> Manifest:
    """Write the bundle of ``request`` and return its manifest.

    Work happens in a sibling directory that is renamed into place at the end, by one process at a
    time. A bundle of the same checkpoint at ``request.out`` gains what it lacks. Raises
    CheckpointError for the input, UserInputError for the request, BundleError for the conversion,
    a disk that fails or another export to the same place.
    """
    if request.out.is_symlink():  # what it points to is what gets replaced
        request = replace(request, out=request.out.resolve())
    try:
        with only_export(request.out):
            restore(request.out)
            return _export(request, on_progress)
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise BundleError(
            f"Exporting to {request.out} failed{where}: {error.strerror or error}; check the path,"
            " its permissions and the free space."
        ) from error


def _export(request: ExportRequest, on_progress: OnProgress) -> Manifest:
    existing = _existing_bundle(request)
    model = open_model(request.checkpoint)
    spec, geometry = model.spec, model.geometry
    name = _name(request, spec)
    wanted = _wanted(model, request)
    tracker = Tracker(on_progress, sum(file.stat().st_size for file in model.files))
    source = source_hash(model.files, tracker)
    if existing is not None:
        _require_new(existing, source, wanted, request)
    made_by = {name: _version(name) for name in ("glm-plan", "MNN")}
    with Workspace(request.out, source, made_by, request.resume) as workspace:
        if existing is not None:
            workspace.adopt(existing)
        missing = {
            part: [one for one in encodings if not _is_made(workspace.finished.get(part), one)]
            for part, encodings in wanted.items()
        }
        tasks = [(part, one) for part, encodings in missing.items() for one in encodings]
        tracker.expect(sum(work_bytes(spec, part) for part, _ in tasks))
        cpu = probe_host().cpu
        jobs = choose_jobs(spec, request.jobs, cpu.available_bytes, cpu.usable_cores)
        tracker.start("embedding")
        dtype = model.embedding_dtype()
        require_disk(workspace.path, spec, tasks, jobs, VALUE_BYTES[dtype])
        tokenizer = model.write_tokenizer(workspace.path)
        embedding = write_rows(
            workspace.path / f"embedding.{dtype}",
            encoded_rows(model.embedding_rows, spec.vocab_size, dtype),
        )
        PartMaker(model, workspace, spec, tracker).make(missing, jobs)
        manifest = Manifest(
            model=name,
            geometry=geometry,
            tokens=model.tokens,
            stop_ids=model.stop_ids,
            tokenizer=tokenizer,
            embedding=Embedding(file=describe(workspace.path, embedding), dtype=dtype),
            parts=[Part(name=part, variants=workspace.finished[part]) for part in wanted],
            source_precision=model.precision,
            source_sha256=source,
            made_by=made_by,
        )
        document = manifest.model_dump_json(indent=1, by_alias=True)
        write_whole(workspace.path / MANIFEST_NAME, document + "\n")
        workspace.seal()
        publish(workspace.path, request.out)
    return manifest


def _name(request: ExportRequest, spec: ModelSpec) -> str:
    name = request.name or spec.name
    if not 0 < len(name) <= LONGEST_NAME:
        raise UserInputError(
            f"The model's name has {len(name)} characters; expected 1 to {LONGEST_NAME}, give one"
            " with --name."
        )
    return name


def source_hash(files: Sequence[Path], tracker: Tracker) -> str:
    """SHA-256 over name and SHA-256 of each file that makes the checkpoint."""

    def hashed(file: Path) -> str:
        tracker.start(f"checksum of {file.name}")
        digest = hash_file(file)
        tracker.finish(file.stat().st_size)
        return f"{file.name} {digest}\n"

    by_name = sorted(files, key=lambda one: one.name)
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return hashlib.sha256("".join(pool.map(hashed, by_name)).encode()).hexdigest()


def _existing_bundle(request: ExportRequest) -> Bundle | None:
    """The bundle at ``out`` that this export may extend; refuses to write over anything else."""
    out = request.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        existing = open_bundle(out)
    except BundleError as error:
        if request.force and (out / MANIFEST_NAME).is_file():
            return None
        raise UserInputError(
            f"{out} exists and is not a whole bundle; choose another --out."
        ) from error
    return None if request.force else existing


def _wanted(model: ModelSource, request: ExportRequest) -> dict[str, list[Encoding]]:
    """The encodings of every part, in the order of the manifest."""
    blocks = _encodings(model, "block_0", request.precisions, request)
    head = _encodings(model, LM_HEAD, request.head_precisions or request.precisions, request)
    return {f"block_{number}": blocks for number in range(model.spec.blocks)} | {LM_HEAD: head}


def _encodings(
    model: ModelSource, part: str, precisions: tuple[Precision, ...], request: ExportRequest
) -> list[Encoding]:
    """As asked; else as the checkpoint is stored, in groups that let its integers be taken over."""
    stored = model.stored
    asked = precisions or ((stored.precision(part),) if stored else DEFAULT_PRECISIONS)
    choose = {"mnn": choose_encodings, "ort": ort_encodings}
    chosen = [
        one
        for engine in request.engines
        for one in choose[engine](model.spec, asked, request.weight_block)
    ]
    if stored is None or request.weight_block is not None:
        return chosen
    own = [stored.weight_block(part, one.precision) for one in chosen]
    return [
        replace(one, weight_block=block) if block else one
        for one, block in zip(chosen, own, strict=True)
    ]


def _require_new(
    existing: Bundle, source: str, wanted: dict[str, list[Encoding]], request: ExportRequest
) -> None:
    if existing.manifest.source_sha256 != source:
        raise UserInputError(
            f"{request.out} is a bundle of another checkpoint; use --force to replace it."
        )
    have = {part.name: part.variants for part in existing.manifest.parts}
    if all(_is_made(have[part], one) for part, encodings in wanted.items() for one in encodings):
        raise UserInputError(f"{request.out} has all of that already; use --force to make it anew.")


def _is_made(variants: list[Variant] | None, encoding: Encoding) -> bool:
    return any(
        (one.engine, one.precision, one.weight_block)
        == (encoding.engine, encoding.precision, encoding.weight_block)
        for one in variants or []
    )


def _version(distribution: str) -> str:
    with suppress(PackageNotFoundError):
        return version(distribution)
    return "source tree"
