"""The id inside an .mnn file: the converter draws it at random; we derive it from the contents.

Exports of the same weights are then the same bytes, so a checksum tells whether two bundles are
equal. MNN names its caches of repacked weights by this id, so files that differ need ids that do.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path

from runtime.export.flatbuffer import Table
from scheduler.errors import BundleError

# `Net.mnn_uuid` is the twelfth field of MNN's root table (schema/default/MNN.fbs).
_ID_FIELD = 11
_ID_PATTERN = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHUNK_BYTES = 1 << 20


def set_model_id(mnn_path: Path, weight_path: Path) -> None:
    """Replace the random id of ``mnn_path`` by one that both files' contents determine.

    Raises BundleError where the id is not where MNN 3's schema has it; the file is then unchanged.
    """
    graph = bytearray(mnn_path.read_bytes())
    place = _id_place(graph)
    if place is None:
        raise BundleError(
            f"{mnn_path.name} has no id where MNN 3 keeps it; this MNN writes another format:"
            " install the version that constraints.txt names."
        )
    graph[place] = b"0" * (place.stop - place.start)
    digest = hashlib.sha256(graph)
    with weight_path.open("rb") as weights:
        while chunk := weights.read(_CHUNK_BYTES):
            digest.update(chunk)
    graph[place] = str(uuid.UUID(bytes=digest.digest()[:16])).encode("ascii")
    mnn_path.write_bytes(graph)


def _id_place(graph: bytes | bytearray) -> slice | None:
    """Where the id's characters are."""
    try:
        start, length = Table.root(graph).vector(_ID_FIELD)
    except ValueError:
        return None
    place = slice(start, start + length)
    return place if _ID_PATTERN.fullmatch(graph[place]) else None
