"""The blocks and heads that calibration runs: random, of full width, converted once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from scheduler.backend_names import Engine
from scheduler.cost import device_kind
from scheduler.errors import UserInputError
from scheduler.file_lock import LockedError, hold_lock
from scheduler.memory import held_block_bytes, loading_bytes
from scheduler.model import ModelSpec, block_bytes, lm_head_bytes
from scheduler.plan import Precision
from scheduler.units import format_size
from scheduler.whole_file import make_folder, sync_file

WIDTHS = (4096, 2048, 1024, 512)
HEAD_DIM = 128
ROWS_PER_WIDTH = 4  # rows of the lm_head-like matrix: 16,384 at width 4,096
_UNFINISHED = ".making-"
_SOURCES: dict[Engine, tuple[str, ...]] = {
    "mnn": ("block_graph.py", "onnx_graph.py", "converter.py"),
    "ort": ("block_graph.py", "onnx_graph.py", "ort_encode.py", "ort_quantise.py"),
}
# The converter's peak over the fp32 weights of a block, and the loaded blocks of all precisions.
_RAM_SHARE = 0.5

_PARTS = ("block", "lm_head")
_SUFFIXES: dict[Engine, str] = {"mnn": ".mnn", "ort": ".onnx"}

OnPart = Callable[[str], None]
Encoded = tuple[Engine, Precision]
"""What stores a part: ``("ort", "int4")``."""


@dataclass(frozen=True)
class PartFiles:
    """One block and one head of a precision, as one engine opens them."""

    block: Path
    lm_head: Path


def block_spec(width: int) -> ModelSpec:
    """The geometry of a ChatGLM block of this width, with a small vocabulary."""
    head_dim = min(HEAD_DIM, width // 4)
    return ModelSpec(
        name=f"calibration-{width}",
        family="chatglm",
        hidden_size=width,
        ffn_size=4 * width,
        blocks=1,
        heads=width // head_dim,
        kv_heads=width // head_dim,
        head_dim=head_dim,
        vocab_size=ROWS_PER_WIDTH * width,
        max_context=2048,
        norm="layer",
        gated_mlp=False,
        qkv_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norms_per_block=2,
        tied_embeddings=False,
    )


def choose_width(available_bytes: int, engines: Iterable[Engine] = ("mnn",)) -> int:
    """The widest block whose measurement takes at most half of the free RAM.

    Raises UserInputError where even the narrowest does not fit.
    """
    kinds = [device_kind("cpu", f"{engine}:cpu") for engine in engines]
    for width in WIDTHS:
        spec = block_spec(width)
        held = sum(
            2 * held_block_bytes(spec, one, kind)
            for one in ("fp32", "int8", "int4")
            for kind in kinds
        )
        if held + loading_bytes(spec, "cpu", 1, "fp32", "fp32") <= _RAM_SHARE * available_bytes:
            return width
    raise UserInputError(
        f"{format_size(available_bytes)} of RAM are available, too little to measure with; close"
        " other programs and try again."
    )


def cache_dir() -> Path:
    """The user's cache directory: GLM_PLAN_CACHE_DIR, or where the platform keeps such."""
    own = os.environ.get("GLM_PLAN_CACHE_DIR")
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local") / "glm-plan"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "glm-plan"
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base if base and Path(base).is_absolute() else Path.home() / ".cache") / "glm-plan"


def calibration_parts(
    width: int, wanted: Iterable[Encoded], on_part: OnPart = lambda _: None
) -> dict[Encoded, PartFiles]:
    """Find the parts in the cache, or make them there; those of other graphs or engines go.

    Raises UserInputError without the extra `export` or disk, BundleError for the converter.
    """
    shelf = cache_dir() / "calibration"
    folder = shelf / _fingerprint() / f"width-{width}"
    encoded = list(wanted)
    missing = [one for one in encoded if not (folder / _name(one)).is_dir()]
    if missing:
        _require_extra()
        _make_alone(shelf, folder, width, missing, on_part)
    return {
        one: PartFiles(*(folder / _name(one) / f"{part}{_SUFFIXES[one[0]]}" for part in _PARTS))
        for one in encoded
    }


def _name(encoded: Encoded) -> str:
    return "-".join(encoded)


def _fingerprint() -> str:
    """Names the graph and the encodings, so that parts of an older program are not measured."""
    digest = hashlib.sha256()
    sources = Path(__file__).parents[1] / "export"
    for names in _SOURCES.values():
        for name in names:
            digest.update((sources / name).read_bytes())
    with contextlib.suppress(PackageNotFoundError):
        digest.update(version("MNN").encode())
    return digest.hexdigest()[:16]


def _require_extra() -> None:
    if find_spec("onnx") is None:
        raise UserInputError(
            "Calibrating builds a block and needs onnx for that: pip install 'glm-plan[export]'."
        )


def _make_alone(
    shelf: Path, folder: Path, width: int, wanted: list[Encoded], on_part: OnPart
) -> None:
    """Make parts while no other process does, with room for them."""
    try:
        make_folder(folder.parent)
        with hold_lock(shelf / ".lock"):
            missing = [one for one in wanted if not (folder / _name(one)).is_dir()]
            if missing:
                precisions = [precision for _, precision in missing]
                _make_room(shelf, folder, block_spec(width), precisions)
                _make(folder, width, missing, on_part)
    except LockedError:
        raise UserInputError(
            "Another glm-plan is making parts to calibrate with; wait until it is done."
        ) from None
    except OSError as error:
        raise UserInputError(
            f"{shelf} cannot be written to: {error.strerror or error}; set GLM_PLAN_CACHE_DIR to"
            " another directory."
        ) from None


def _make(folder: Path, width: int, missing: list[Encoded], on_part: OnPart) -> None:
    from runtime.calibrate.random_parts import random_block, random_head
    from runtime.export.block_graph import write_block, write_lm_head
    from runtime.export.publish import publish

    spec = block_spec(width)
    with TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as scratch:
        graphs = Path(scratch)
        on_part("random weights")
        write_block(
            graphs / "block.onnx", random_block(spec), heads=spec.heads, layernorm_epsilon=1e-5
        )
        write_lm_head(graphs / "lm_head.onnx", random_head(spec), layernorm_epsilon=1e-5)
        for encoded in missing:
            made = graphs / _name(encoded)
            made.mkdir()
            for part in _PARTS:
                on_part(f"{part} {encoded[1]}")
                _store(
                    graphs / f"{part}.onnx", made / f"{part}{_SUFFIXES[encoded[0]]}", spec, encoded
                )
            for file in made.iterdir():
                sync_file(file)
            publish(made, folder / _name(encoded))


def _store(graph: Path, out: Path, spec: ModelSpec, encoded: Encoded) -> None:
    """A part's graph as its engine reads it."""
    from runtime.export.converter import convert
    from runtime.export.ort_encode import encode
    from runtime.export.ort_encodings import ort_encodings
    from runtime.export.request import choose_encodings

    engine, precision = encoded
    if engine == "ort":
        encode(graph, out, *ort_encodings(spec, (precision,), None))
        return
    (encoding,) = choose_encodings(spec, (precision,), None)
    size = block_bytes if out.stem == "block" else lm_head_bytes
    convert(graph, out, encoding, size(spec, precision, encoding.weight_block), Event())


def _make_room(shelf: Path, folder: Path, spec: ModelSpec, precisions: list[Precision]) -> None:
    """Remove parts of older programs and what a killed one left; refuse a disk that is too small.

    The caller holds the shelf's lock.
    """
    left = [one for one in folder.parent.iterdir() if one.name.startswith(_UNFINISHED)]
    old = [one for one in shelf.iterdir() if one.is_dir() and one != folder.parent]
    for one in (*left, *old):
        shutil.rmtree(one, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    needed = sum(block_bytes(spec, one) + lm_head_bytes(spec, one) for one in ("fp32", *precisions))
    if needed > free:
        raise UserInputError(
            f"{shelf} has {format_size(free)} free and calibrating needs {format_size(needed)}; set"
            " GLM_PLAN_CACHE_DIR to another disk."
        )
