"""Which files hold a checkpoint's tensors, and whether they lie inside its directory."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from scheduler.errors import CheckpointError
from scheduler.strict_json import read_strict_json
from scheduler.wording import shorten

_INDEX_BYTES_LIMIT = 64 << 20
_LONGEST_NAME_BYTES = 255  # what file systems take


def list_shards(directory: Path, single: str, index: str) -> tuple[list[Path], dict[str, Path]]:
    """The weight files in ``directory`` and, from an index, the file promised for every tensor.

    The index wins over a single file. Raises CheckpointError for an unusable index, or a file that
    is missing, empty, or outside the directory.
    """
    index_path = directory / index
    if not index_path.exists():
        return [require_inside(directory, single)], {}
    try:
        document = read_strict_json(index_path, _INDEX_BYTES_LIMIT)
    except ValueError as error:
        raise CheckpointError(f"{index_path} {error}; expected a weight index.") from error
    weight_map = document.get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise CheckpointError(
            f"{index_path} has no usable weight_map; expected tensor names to file names."
        )
    files = {name: require_inside(directory, name) for name in sorted(set(weight_map.values()))}
    return list(files.values()), {tensor: files[name] for tensor, name in weight_map.items()}


def require_inside(directory: Path, name: str) -> Path:
    """The regular, non-empty file ``name`` of ``directory``.

    ``name`` must be a plain file name. A symbolic link is followed only to a sibling or into the
    ``blobs`` folder of a Hugging Face cache (``snapshots/<revision>/<name> ->
    ../../blobs/<hash>``). Raises CheckpointError otherwise.
    """
    path = directory / name
    plain = PurePosixPath(name)
    odd = "\\" in name or ":" in name or "\0" in name or len(name.encode()) > _LONGEST_NAME_BYTES
    if len(plain.parts) != 1 or plain.parts[0] in ("..", ".") or odd:
        raise CheckpointError(
            f"{directory} refers to {shorten(name)}, which is not a plain file name; expected a"
            " file in that directory."
        )
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected it beside config.json.")
    home = directory.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    target = path.resolve()
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise CheckpointError(
            f"{path} is a link to {target}, outside the checkpoint; copy the file itself."
        )
    if not target.is_file():
        raise CheckpointError(f"{path} is not a regular file; expected weights or a tokenizer.")
    if target.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; the download was cut off, fetch it again.")
    return path
