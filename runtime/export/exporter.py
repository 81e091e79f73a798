"""Export: checkpoint in, bundle out; one block in memory at a time, believed only when whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.bundle import (
    MANIFEST_NAME,
    Bundle,
    Embedding,
    Manifest,
    Part,
    Tokenizer,
    Variant,
    hash_file,
    open_bundle,
)
from runtime.bundle_spec import geometry_of
from runtime.export.checkpoint import Checkpoint
from runtime.export.files import copy_file, describe, publish, write_rows, write_synced
from runtime.export.parts import LM_HEAD, PartMaker
from runtime.export.request import Encoding, ExportRequest, OnProgress, choose_encodings
from runtime.export.resources import choose_jobs, require_disk, work_bytes
from runtime.export.tracker import Tracker
from runtime.export.weights import bfloat16_bits
from runtime.export.workspace import Workspace
from scheduler.errors import BundleError, UserInputError
from scheduler.hf_config import read_hf_config
from scheduler.model import ModelSpec
from scheduler.probe import probe_host

_EMBEDDING_ROWS = 4096  # per write: 64 MiB of fp32 at width 4096
_HASH_THREADS = 4


def export_bundle(request: ExportRequest, on_progress: OnProgress = lambda _: None) -> Manifest:
    """Write the bundle of ``request`` and return its manifest.

    Work happens in a sibling directory that is renamed into place at the end. A bundle of the same
    checkpoint at ``request.out`` gains what it lacks. Raises CheckpointError for the input,
    UserInputError for the request, BundleError for the conversion or a disk that fails.
    """
    try:
        return _export(request, on_progress)
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise BundleError(
            f"Exporting to {request.out} failed{where}: {error.strerror or error}; check the path,"
            " its permissions and the free space."
        ) from error


def _export(request: ExportRequest, on_progress: OnProgress) -> Manifest:
    existing = _existing_bundle(request)
    checkpoint = Checkpoint(request.checkpoint)
    spec = replace(read_hf_config(request.checkpoint), vocab_size=checkpoint.vocab_size)
    wanted = _wanted(spec, request)
    tracker = Tracker(on_progress, sum(file.stat().st_size for file in checkpoint.files))
    source = source_hash(checkpoint, tracker)
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
        require_disk(workspace.path, spec, tasks, jobs)
        tracker.start("embedding")
        tokenizer = copy_file(
            checkpoint.tokenizer_path, workspace.path / "tokenizer" / "ice_text.model"
        )
        embedding = write_rows(workspace.path / "embedding.bf16", _embedding_bits(checkpoint))
        PartMaker(checkpoint, workspace, spec, tracker).make(missing, jobs)
        manifest = Manifest(
            model=request.name or request.checkpoint.resolve().name,
            geometry=geometry_of(spec, checkpoint.config.layernorm_epsilon),
            tokens=checkpoint.tokens,
            tokenizer=Tokenizer(file=describe(workspace.path, tokenizer)),
            embedding=Embedding(file=describe(workspace.path, embedding)),
            parts=[Part(name=part, variants=workspace.finished[part]) for part in wanted],
            source_precision=checkpoint.source_precision,
            source_sha256=source,
            made_by=made_by,
        )
        document = manifest.model_dump_json(indent=1, by_alias=True)
        write_synced(workspace.path / MANIFEST_NAME, document + "\n")
        workspace.seal()
        publish(workspace.path, request.out)
    return manifest


def source_hash(checkpoint: Checkpoint, tracker: Tracker) -> str:
    """SHA-256 over name and SHA-256 of each file that makes the checkpoint."""

    def hashed(file: Path) -> str:
        tracker.start(f"checksum of {file.name}")
        digest = hash_file(file)
        tracker.finish(file.stat().st_size)
        return f"{file.name} {digest}\n"

    files = sorted(checkpoint.files, key=lambda one: one.name)
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return hashlib.sha256("".join(pool.map(hashed, files)).encode()).hexdigest()


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


def _wanted(spec: ModelSpec, request: ExportRequest) -> dict[str, list[Encoding]]:
    """The encodings of every part, in the order of the manifest."""
    blocks = choose_encodings(spec, request.precisions, request.weight_block)
    head = choose_encodings(
        spec, request.head_precisions or request.precisions, request.weight_block
    )
    return {f"block_{number}": blocks for number in range(spec.blocks)} | {LM_HEAD: head}


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
        == ("mnn", encoding.precision, encoding.weight_block)
        for one in variants or []
    )


def _embedding_bits(checkpoint: Checkpoint) -> Iterator[npt.NDArray[np.uint16]]:
    rows = checkpoint.vocab_size
    for start in range(0, rows, _EMBEDDING_ROWS):
        yield bfloat16_bits(checkpoint.embedding_rows(start, min(start + _EMBEDDING_ROWS, rows)))


def _version(distribution: str) -> str:
    with suppress(PackageNotFoundError):
        return version(distribution)
    return "source tree"
