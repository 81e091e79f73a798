"""glm-plan's model for the comparison with its peers: one random block, stored once, 28 times.

All blocks of the manifest name the same files, so the bundle takes 1.6 GB of disk, not 4. Each
is loaded by itself and has weights of its own in memory, as with every bundle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from runtime.bundle import open_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.manifest import MANIFEST_NAME
from scheduler.backend_names import Engine
from scheduler.plan import Precision
from tests.bench.peer_shape import BLOCKS, HEADS, HIDDEN, MAX_CONTEXT, VOCAB
from tests.bench.wide_bundle import write_wide_checkpoint
from tests.support.chatglm_checkpoint import Shape

FULL = Shape(HIDDEN, HEADS, BLOCKS, VOCAB, MAX_CONTEXT)


def repeated_bundle(
    bundle: Path, precision: Precision, engines: tuple[Engine, ...], shape: Shape = FULL
) -> Path:
    """The bundle in a folder, made there first if there is none; minutes at full width."""
    if bundle.exists():
        return bundle
    checkpoint = bundle.with_name(f"{bundle.name}-checkpoint")
    one = Shape(shape.hidden, shape.heads, 1, shape.vocab, shape.max_context)
    write_wide_checkpoint(checkpoint, one)
    export_bundle(
        ExportRequest(checkpoint, bundle, (precision,), name="chatglm-6b", engines=engines)
    )
    shutil.rmtree(checkpoint)
    path = bundle / MANIFEST_NAME
    manifest = json.loads(path.read_text("utf-8"))
    manifest["geometry"]["blocks"] = shape.blocks
    block, *others = manifest["parts"]
    blocks = [block | {"name": f"block_{number}"} for number in range(shape.blocks)]
    manifest["parts"] = [*blocks, *others]
    path.write_text(json.dumps(manifest), "utf-8")
    open_bundle(bundle)
    return bundle
