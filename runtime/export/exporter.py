"""Export: checkpoint in, bundle out; one block in memory at a time, believed only when whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.bundle import (
    MANIFEST_NAME,
    Embedding,
    Geometry,
    Manifest,
    Part,
    SpecialTokens,
    Tokenizer,
    Variant,
    hash_file,
    read_manifest,
)
from runtime.export.block_graph import write_block, write_lm_head
from runtime.export.checkpoint import Checkpoint
from runtime.export.converter import Encoding, convert
from runtime.export.files import copy_file, describe, publish, write_rows, write_synced
from runtime.export.weights import bfloat16_bits, block_rounded_to_half, head_rounded_to_half
from scheduler.errors import BundleError, CheckpointError, UserInputError
from scheduler.plan import Precision

LM_HEAD = "lm_head"
WEIGHT_BLOCKS = (128, 64, 32)
_EMBEDDING_ROWS = 4096  # per read: 64 MiB of fp32 at width 4096


@dataclass(frozen=True)
class ExportRequest:
    """What to export, where to, and how weights are stored; ``weight_block`` None chooses one."""

    checkpoint: Path
    out: Path
    precisions: tuple[Precision, ...]
    weight_block: int | None = None
    name: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Progress:
    """Where an export is: the part now in work, steps done of all, and bytes written so far."""

    part: str
    done: int
    total: int
    written_bytes: int


def export_bundle(
    request: ExportRequest, on_progress: Callable[[Progress], None] = lambda _: None
) -> Manifest:
    """Write the bundle of ``request`` and return its manifest.

    Work happens in a sibling directory that is renamed into place at the end. Raises
    CheckpointError for the input, UserInputError for the request, BundleError for the conversion.
    """
    require_free(request)
    checkpoint = Checkpoint(request.checkpoint)
    encodings = choose_encodings(request, checkpoint)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    work = request.out.with_name(f".{request.out.name}.partial")
    if work.exists():
        shutil.rmtree(work)
    work.mkdir()
    try:
        manifest = _fill(work, checkpoint, encodings, request, on_progress)
        publish(work, request.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def require_free(request: ExportRequest) -> None:
    """Refuse to write over anything but a bundle, and over a bundle unless ``force`` is set."""
    if not request.out.exists():
        return
    try:
        read_manifest(request.out)
    except BundleError as error:
        if request.out.is_dir() and not any(request.out.iterdir()):
            return
        raise UserInputError(
            f"{request.out} exists and is not a bundle; choose another --out."
        ) from error
    if not request.force:
        raise UserInputError(f"{request.out} is a bundle already; use --force to replace it.")


def choose_encodings(request: ExportRequest, checkpoint: Checkpoint) -> list[Encoding]:
    """One encoding per precision asked for; UserInputError when the weight block does not fit."""
    widths = (checkpoint.config.hidden_size, checkpoint.config.inner_hidden_size)
    fitting = [block for block in WEIGHT_BLOCKS if all(width % block == 0 for width in widths)]
    block = request.weight_block or (fitting[0] if fitting else None)
    if "int4" in request.precisions and block not in fitting:
        asked = f"a weight block of {block}" if block else "int4"
        raise UserInputError(
            f"{request.checkpoint} has widths {widths[0]} and {widths[1]}, which do not allow"
            f" {asked};"
            f" usable: {', '.join(map(str, fitting)) or 'none, export int8'}."
        )
    return [
        Encoding(precision, block if precision == "int4" else None)
        for precision in dict.fromkeys(request.precisions)
    ]


def _fill(
    work: Path,
    checkpoint: Checkpoint,
    encodings: list[Encoding],
    request: ExportRequest,
    on_progress: Callable[[Progress], None],
) -> Manifest:
    config = checkpoint.config
    names = [*(f"block_{number}" for number in range(config.num_layers)), LM_HEAD]
    total = 1 + len(names) * len(encodings)
    on_progress(Progress("embedding", 0, total, 0))
    tokenizer = copy_file(checkpoint.tokenizer_path, work / "tokenizer" / "ice_text.model")
    embedding = write_rows(work / "embedding.bf16", _embedding_bits(checkpoint))
    embedding_file = describe(work, embedding)
    written = embedding_file.size_bytes
    done = 1
    parts = []
    for name in names:
        variants = []
        for encoding, onnx_path in _graphs(work / "onnx", checkpoint, name, encodings):
            on_progress(Progress(name, done, total, written))
            variants.append(_convert(work, name, onnx_path, encoding))
            written += variants[-1].size_bytes
            done += 1
        parts.append(Part(name=name, variants=variants))
    on_progress(Progress("manifest", done, total, written))
    manifest = Manifest(
        model=request.name or request.checkpoint.resolve().name,
        geometry=_geometry(checkpoint),
        tokens=_tokens(checkpoint),
        tokenizer=Tokenizer(file=describe(work, tokenizer)),
        embedding=Embedding(file=embedding_file),
        parts=parts,
        source_precision=checkpoint.source_precision,
        source_sha256=source_hash(checkpoint),
        made_by={name: _version(name) for name in ("glm-plan", "MNN")},
    )
    write_synced(work / MANIFEST_NAME, manifest.model_dump_json(indent=1, by_alias=True) + "\n")
    return manifest


def _graphs(
    folder: Path, checkpoint: Checkpoint, name: str, encodings: list[Encoding]
) -> Iterator[tuple[Encoding, Path]]:
    """Yield each encoding with an ONNX file that is right for it, written once where possible."""
    exact = checkpoint.source_precision == "fp16"
    halved = [one for one in encodings if one.precision == "fp16" and not exact]
    for some, half in ((halved, True), ([one for one in encodings if one not in halved], False)):
        if not some:
            continue
        folder.mkdir()
        path = folder / f"{name}.onnx"
        _write_graph(path, checkpoint, name, half)
        for encoding in some:
            yield encoding, path
        shutil.rmtree(folder)


def _write_graph(path: Path, checkpoint: Checkpoint, name: str, half: bool) -> None:
    epsilon = checkpoint.config.layernorm_epsilon
    try:
        if name == LM_HEAD:
            head = checkpoint.head()
            head = head_rounded_to_half(head) if half else head
            write_lm_head(path, head, layernorm_epsilon=epsilon)
        else:
            block = checkpoint.block(int(name.removeprefix("block_")))
            block = block_rounded_to_half(block) if half else block
            heads = checkpoint.config.num_attention_heads
            write_block(path, block, heads=heads, layernorm_epsilon=epsilon)
    except OverflowError as error:
        raise CheckpointError(
            f"{checkpoint.directory} cannot be stored as fp16: {error} ({name}); use fp32 or int8."
        ) from error


def _convert(work: Path, name: str, onnx_path: Path, encoding: Encoding) -> Variant:
    stem = name if name == LM_HEAD else f"block_{int(name.removeprefix('block_')):02d}"
    folder = work / encoding.directory
    folder.mkdir(exist_ok=True)
    files = convert(onnx_path, folder / f"{stem}.mnn", encoding)
    return Variant(
        engine="mnn",
        precision=encoding.precision,
        weight_block=encoding.weight_block,
        files=[describe(work, file) for file in files],
    )


def _embedding_bits(checkpoint: Checkpoint) -> Iterator[npt.NDArray[np.uint16]]:
    rows = checkpoint.config.vocab_size
    for start in range(0, rows, _EMBEDDING_ROWS):
        yield bfloat16_bits(checkpoint.embedding_rows(start, min(start + _EMBEDDING_ROWS, rows)))


def source_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 over name and SHA-256 of each file that makes the checkpoint."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.files, key=lambda one: one.name):
        digest.update(f"{file.name} {hash_file(file)}\n".encode())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "source tree"


def _geometry(checkpoint: Checkpoint) -> Geometry:
    config = checkpoint.config
    return Geometry(
        hidden_size=config.hidden_size,
        ffn_size=config.inner_hidden_size,
        blocks=config.num_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_context=config.max_sequence_length,
        layernorm_epsilon=config.layernorm_epsilon,
    )


def _tokens(checkpoint: Checkpoint) -> SpecialTokens:
    config = checkpoint.config
    assert config.mask_token_id is not None
    assert config.gmask_token_id is not None
    return SpecialTokens(
        mask=config.mask_token_id,
        gmask=config.gmask_token_id,
        bos=config.bos_token_id,
        eos=config.eos_token_id,
        pad=config.pad_token_id,
    )
