"""A GGUF model in one file, or in the numbered files that llama.cpp's gguf-split writes."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.export.gguf_header import GgufHeader, read_gguf_header
from scheduler.errors import CheckpointError

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MAX_FILES = 999


def read_gguf(path: Path) -> GgufHeader:
    """The header of a model; where it is split, ``path`` is any of its files, named as gguf-split.

    Metadata comes from the first file, tensors from all. Raises CheckpointError as
    `read_gguf_header`, and for files that are missing, mixed up or hold a tensor twice.
    """
    named = _NAME.fullmatch(path.name)
    files = _siblings(path, named) if named else [path]
    first = read_gguf_header(files[0])
    count = first.metadata.get("split.count", 0)
    if not named and count not in {0, 1}:
        raise CheckpointError(
            f"{path} is one of {count} files of a model; expected the names that gguf-split gave"
            f" them, such as model-00001-of-{count:05}.gguf, in one directory."
        )
    tensors = dict(first.tensors)
    for number, file in enumerate(files):
        header = first if number == 0 else read_gguf_header(file)
        stated = (header.metadata.get("split.no", 0), header.metadata.get("split.count", 1))
        if named and stated != (number, len(files)):
            raise CheckpointError(
                f"{file} says that it is number {stated[0]} (from 0) of {stated[1]} files, its name"
                " says otherwise; download it again."
            )
        if number and (twice := tensors.keys() & header.tensors.keys()):
            raise CheckpointError(
                f"{file} holds {min(twice)[:80]!r}, which another file of the model holds too;"
                " expected each tensor once."
            )
        tensors |= header.tensors
    if len(tensors) != first.metadata.get("split.tensors.count", len(tensors)):
        raise CheckpointError(
            f"{path} and its siblings hold {len(tensors)} tensors,"
            f" {first.metadata['split.tensors.count']} are promised; download them again."
        )
    return GgufHeader(first.metadata, tensors)


def _siblings(path: Path, named: re.Match[str]) -> list[Path]:
    count = int(named["count"])
    if not 1 <= int(named["number"]) <= count <= MAX_FILES:
        raise CheckpointError(
            f"{path} is named as part {named['number']} of {named['count']}; expected a number up"
            f" to the count, and at most {MAX_FILES} files."
        )
    return [
        path.with_name(f"{named['stem']}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    ]
