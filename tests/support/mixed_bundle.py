"""A random model for both engines at every precision, and its tensors for the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.backends.choose import open_backend
from runtime.bundle import Bundle, open_bundle, select_variant
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.stage import Stage, Step, finished
from runtime.step_inputs import Row
from scheduler.plan import Precision
from tests.reference import chatglm_numpy
from tests.support.chatglm_checkpoint import Shape, config_for, write_checkpoint

SHAPE = Shape(hidden=128, heads=4, blocks=3, vocab=96, max_context=512)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")


def export_mixed(folder: Path) -> tuple[Bundle, chatglm_numpy.Model]:
    """Write a checkpoint and its bundle under `folder`."""
    tensors = write_checkpoint(folder / "checkpoint", SHAPE, precision="fp32")
    request = ExportRequest(
        folder / "checkpoint", folder / "bundle", PRECISIONS, engines=("mnn", "ort")
    )
    export_bundle(request)
    return open_bundle(folder / "bundle"), chatglm_numpy.Model(tensors, config_for(SHAPE))


def whole_stage(bundle: Bundle, backend_name: str, precision: Precision) -> Stage:
    """All blocks and lm_head in this process, on this backend."""
    blocks = range(bundle.manifest.geometry.blocks)
    return stage_of(bundle, backend_name, precision, [*(f"block_{n}" for n in blocks), "lm_head"])


def stage_of(
    bundle: Bundle, backend_name: str, precision: Precision, parts: Sequence[str]
) -> Stage:
    """These parts in this process, on this backend."""
    geometry = bundle.manifest.geometry
    backend = open_backend(backend_name, 1, geometry.kv_heads, geometry.head_dim, False)
    engine = "ort" if backend_name.startswith("ort") else "mnn"
    for part in (one for one in bundle.manifest.parts if one.name in parts):
        variant = select_variant(bundle.manifest, part.name, engine, precision).variant
        load = backend.load_lm_head if part.name == "lm_head" else backend.load_block
        load(bundle.file(variant.files[0]))
    return Stage(backend, geometry.turning, geometry.max_context)


def two_rows(together: Stage, alone: Stage, width: int) -> float:
    """The largest relative error of two rows in one group of `together` against `alone`.

    One prompt comes while the other row decodes, pausing between its blocks; rows leave and come
    back in another order, pause, and grow past 64 tokens.
    """
    random = np.random.default_rng(3)
    hidden = random.standard_normal((2, 80, width), np.float32)
    expected = []
    for texts in hidden:
        first = alone.forward(Step((Row(0, 4, 3),), 60), texts[None, :60])[0]
        steps = [
            alone.forward(Step((Row(at, 4, 3),), 1), texts[None, at : at + 1])[0]
            for at in range(60, 80)
        ]
        expected.append(np.concatenate([first, *steps]))

    errors = []

    def check(found: np.ndarray, row: int, at: slice) -> None:
        wanted = expected[row][at]
        errors.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))

    together.arrange(7, 1, 64, [-1])
    check(finished(together.prefill(7, 0, Row(0, 4, 3), hidden[0, :60])), 0, slice(60))
    together.arrange(7, 2, 64, [0, -1])
    second = together.prefill(7, 1, Row(0, 4, 3), hidden[1, :60])
    next(second)
    found = together.decode(7, [Row(60, 4, 3), None], 64, hidden[:, 60])
    check(found[:1], 0, slice(60, 61))
    check(finished(second), 1, slice(60))
    for at in (60, 61, 62):  # the first row is one token ahead
        rows = [Row(at + 1, 4, 3), Row(at, 4, 3)]
        steps = np.stack([hidden[0, at + 1], hidden[1, at]])
        found = together.decode(7, rows, 64, steps)
        check(found[:1], 0, slice(at + 1, at + 2))
        check(found[1:], 1, slice(at, at + 1))
    together.arrange(7, 2, 128, [1, 0])
    for at in (63, 64, 65):
        rows = [Row(at, 4, 3), Row(at + 1, 4, 3)]
        steps = np.stack([hidden[1, at], hidden[0, at + 1]])
        found = together.decode(7, rows, 128, steps)
        check(found[:1], 1, slice(at, at + 1))
        check(found[1:], 0, slice(at + 1, at + 2))
    check(finished(together.prefill(7, 0, Row(66, 4, 3), hidden[1, 66:80])), 1, slice(66, 80))
    together.drop(7)
    return float(max(errors))
