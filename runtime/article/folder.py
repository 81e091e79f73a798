"""Opening a folder of the article's export: what its files say, as a Bundle for planner and engine.

The folder has no manifest, so everything is inferred: blocks by counting files, vocabulary by
counting lines, width from the size of the embedding, precision from the size of a block.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from runtime.article.vocabulary import VOCABULARY_NAME, read_vocabulary, special_tokens
from runtime.bundle import Bundle, open_bundle
from runtime.geometry import Geometry
from runtime.manifest import (
    MANIFEST_NAME,
    BundleFile,
    Embedding,
    Manifest,
    Part,
    Tokenizer,
    Variant,
)
from scheduler.errors import BundleError
from scheduler.plan import Precision

EMBEDDING_NAME = "slim_word_embeddings_bf16.bin"
LM_NAME = "lm.mnn"
_BLOCK_NAME = re.compile(r"glm_block_(0|[1-9]\d{0,2})\.mnn")
# ChatGLM-6B's constants, which no file of the export states.
_HEAD_DIM = 128
_FFN_WIDTHS = 4
_MAX_CONTEXT = 2048
_LAYERNORM_EPSILON = 1e-5
_LARGEST_WIDTH = 1 << 14
# Bytes per parameter. A graph adds about 1 MB, and int4 has a scale and a zero point per block.
_BYTES_PER_PARAMETER: dict[Precision, float] = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.55}
_LARGEST_MISFIT = 1.35


def open_model(path: Path) -> Bundle:
    """Open a bundle, or a folder of the article's export; BundleError when it is neither."""
    if is_article_export(path):
        return open_article_export(path)
    return open_bundle(path)


def is_article_export(path: Path) -> bool:
    """Whether a folder without a manifest has files by the article's names."""
    if not path.is_dir() or (path / MANIFEST_NAME).exists():
        return False
    telling = (EMBEDDING_NAME, VOCABULARY_NAME)
    try:
        names = [one.name for one in path.iterdir()]
    except OSError:
        return False
    return any(_BLOCK_NAME.fullmatch(name) or name in telling for name in names)


def open_article_export(path: Path) -> Bundle:
    """The folder as a Bundle without checksums.

    Raises BundleError when a file is missing or when their sizes do not fit together.
    """
    blocks = _block_files(path)
    lm = _part_files(path, LM_NAME)
    vocabulary = path / VOCABULARY_NAME
    tokens = read_vocabulary(vocabulary)
    special = special_tokens(vocabulary, tokens)
    embedding = _file(path, EMBEDDING_NAME)
    hidden_size = _hidden_size(path, embedding, len(tokens))
    precision = _precision(path, blocks[0], hidden_size)
    head_dim = _HEAD_DIM if hidden_size % _HEAD_DIM == 0 else hidden_size
    manifest = Manifest(
        model=_name(path, hidden_size, len(blocks)),
        geometry=Geometry(
            hidden_size=hidden_size,
            ffn_size=_FFN_WIDTHS * hidden_size,
            blocks=len(blocks),
            heads=hidden_size // head_dim,
            kv_heads=hidden_size // head_dim,
            head_dim=head_dim,
            vocab_size=len(tokens),
            max_context=_MAX_CONTEXT,
            layernorm_epsilon=_LAYERNORM_EPSILON,
        ),
        tokens=special,
        tokenizer=Tokenizer(file=_file(path, VOCABULARY_NAME)),
        embedding=Embedding(file=embedding),
        parts=[
            *(_part(f"block_{number}", files, precision) for number, files in enumerate(blocks)),
            _part("lm_head", lm, precision),
        ],
        source_precision=precision,
        source_sha256=None,
        made_by={"exporter": "the article's, of 2023 (no manifest, no checksums)"},
    )
    return Bundle(path, manifest, "article")


def _block_files(path: Path) -> list[list[BundleFile]]:
    numbers = {
        int(found.group(1))
        for one in path.iterdir()
        if (found := _BLOCK_NAME.fullmatch(one.name)) is not None
    }
    count = max(numbers, default=0) + 1
    for number in range(count):
        if number not in numbers:
            last = f" though it has glm_block_{count - 1}.mnn" if numbers else ""
            raise BundleError(
                f"{path} has no glm_block_{number}.mnn{last}; expected the article's export with"
                " every block from 0 on, copy it again."
            )
    return [_part_files(path, f"glm_block_{number}.mnn") for number in range(count)]


def _part_files(path: Path, name: str) -> list[BundleFile]:
    """A graph, and its weights where the converter put them into a file of their own."""
    weights = f"{name}.weight"
    return [_file(path, one) for one in (name, weights) if one == name or (path / one).is_file()]


def _file(path: Path, name: str) -> BundleFile:
    target = path / name
    size_bytes = target.stat().st_size if target.is_file() else 0
    if not size_bytes:
        raise BundleError(
            f"{target} is {'empty' if target.is_file() else 'missing'}; expected the article's"
            f" export: glm_block_*.mnn, {LM_NAME}, {EMBEDDING_NAME} and {VOCABULARY_NAME}."
        )
    return BundleFile(path=name, size_bytes=size_bytes, sha256=None)


def _hidden_size(path: Path, embedding: BundleFile, tokens: int) -> int:
    hidden_size, rest = divmod(embedding.size_bytes, 2 * tokens)
    if rest or hidden_size % 4 or not 0 < hidden_size <= _LARGEST_WIDTH:
        raise BundleError(
            f"{path / EMBEDDING_NAME} has {embedding.size_bytes} bytes, which is no bf16 row of"
            f" whole width for each of the {tokens} tokens in {VOCABULARY_NAME}; one of the two is"
            " incomplete or from another export, copy both again."
        )
    return hidden_size


def _precision(path: Path, files: list[BundleFile], hidden_size: int) -> Precision:
    """The precision whose size is nearest to that of a block, which no file states."""
    parameters = 12 * hidden_size**2 + 13 * hidden_size
    size_bytes = sum(file.size_bytes for file in files)
    each = size_bytes / parameters
    misfits: dict[Precision, float] = {
        name: math.exp(abs(math.log(each / expected)))
        for name, expected in _BYTES_PER_PARAMETER.items()
    }
    nearest = min(misfits, key=lambda name: misfits[name])
    if misfits[nearest] > _LARGEST_MISFIT:
        raise BundleError(
            f"{path / files[0].path} takes {size_bytes} bytes, and a block of the width"
            f" {hidden_size} that the embedding gives has {parameters} parameters: {each:.2f} bytes"
            " for each is no known precision, so the files belong to different exports or are"
            " incomplete."
        )
    return nearest


def _part(name: str, files: list[BundleFile], precision: Precision) -> Part:
    return Part(name=name, variants=[Variant(engine="mnn", precision=precision, files=files)])


def _name(path: Path, hidden_size: int, blocks: int) -> str:
    """The profile with the published rule, where it is that model; else the folder's name."""
    if (hidden_size, blocks) == (4096, 28):
        return "chatglm-6b"
    return path.resolve().name[:200] or "article-export"
