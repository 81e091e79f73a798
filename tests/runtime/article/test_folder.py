"""What a folder of the article's export says without a manifest, and how a bad one is refused.

Opening reads names, sizes and the vocabulary, so these files hold no models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.article.folder import is_article_export, open_model
from runtime.article.vocabulary import read_vocabulary
from runtime.bundle_spec import spec_of_bundle
from scheduler.errors import BundleError
from tests.support.article_export import EMBEDDING, VOCABULARY, vocabulary_tokens
from tests.support.tiny import TINY_BUNDLE

HIDDEN, VOCAB, BLOCKS = 256, 96, 3
PARAMETERS = 12 * HIDDEN**2 + 13 * HIDDEN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    path.mkdir()
    for number in range(BLOCKS):
        (path / f"glm_block_{number}.mnn").write_bytes(bytes(2 * PARAMETERS))
    (path / "lm.mnn").write_bytes(bytes(2 * VOCAB * HIDDEN))
    (path / EMBEDDING).write_bytes(bytes(2 * VOCAB * HIDDEN))
    write_lines(path, vocabulary_tokens(VOCAB))
    return path


def write_lines(path: Path, lines: list[str]) -> None:
    (path / VOCABULARY).write_bytes("".join(f"{line}\n" for line in lines).encode())


def test_geometry_is_inferred(folder: Path) -> None:
    bundle = open_model(folder)
    geometry = bundle.manifest.geometry
    assert bundle.layout == "article"
    assert (geometry.hidden_size, geometry.blocks, geometry.vocab_size) == (HIDDEN, BLOCKS, VOCAB)
    assert (geometry.heads, geometry.head_dim) == (HIDDEN // 128, 128)
    special = bundle.manifest.tokens
    assert (special.mask, special.gmask, special.bos, special.eos) == (91, 92, 94, 95)
    assert special.pad == 3
    assert spec_of_bundle(bundle).ffn_size == 4 * HIDDEN


@pytest.mark.parametrize(
    ("bytes_each", "precision"),
    [(4, "fp32"), (2, "fp16"), (1 + 4 / 256, "int8"), (0.5 + 4 / 128, "int4"), (0.625, "int4")],
)
def test_precision_is_what_the_size_of_a_block_says(
    folder: Path, bytes_each: float, precision: str
) -> None:
    (folder / "glm_block_0.mnn").write_bytes(bytes(20_000))
    (folder / "glm_block_0.mnn.weight").write_bytes(bytes(round(bytes_each * PARAMETERS)))
    variants = [part.variants for part in open_model(folder).manifest.parts]
    assert {one.precision for [one] in variants} == {precision}
    assert len(variants[0][0].files) == 2


def test_a_bundle_with_a_manifest_is_a_bundle(tmp_path: Path) -> None:
    assert open_model(TINY_BUNDLE).layout == "glm-plan"
    assert not is_article_export(tmp_path)
    assert not is_article_export(tmp_path / "nothing")
    with pytest.raises(BundleError, match="manifest"):
        open_model(tmp_path)


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size_bytes: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(bytes(size_bytes))


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda folder: write_lines(folder, change(vocabulary_tokens(VOCAB)))


def not_utf8(folder: Path) -> None:
    content = (folder / VOCABULARY).read_bytes().split(b"\n")
    content[4] = b"\xff\xfe"
    (folder / VOCABULARY).write_bytes(b"\n".join(content))


BAD: list[tuple[Callable[[Path], None], str]] = [
    (drop("glm_block_1.mnn"), "has no glm_block_1.mnn though it has glm_block_2.mnn"),
    (drop("glm_block_0.mnn"), "has no glm_block_0.mnn"),
    (drop("lm.mnn"), "lm.mnn is missing"),
    (cut("lm.mnn", 0), "lm.mnn is empty"),
    (drop(EMBEDDING), f"{EMBEDDING} is missing"),
    (drop(VOCABULARY), f"{VOCABULARY} cannot be read"),
    (cut(EMBEDDING, 2 * VOCAB * HIDDEN - 2), "one of the two is incomplete"),
    (cut(EMBEDDING, 2 * VOCAB), "one of the two is incomplete"),
    (cut("glm_block_0.mnn", 9 * PARAMETERS), "9.00 bytes for each is no known precision"),
    (lines(lambda tokens: tokens[1:]), "one of the two is incomplete"),
    (lines(lambda tokens: [*tokens[:9], tokens[3], *tokens[10:]]), "'<pad>' in lines 4 and 10"),
    (lines(lambda tokens: [*tokens[:9], "", *tokens[10:]]), "no token in line 10"),
    (lines(lambda tokens: [*tokens[:-1], "end"]), "no token <eop>"),
    (cut(VOCABULARY, 0), "no token in line 1"),
    (not_utf8, "not UTF-8 in line 5"),
]


@pytest.mark.parametrize(("damage", "sentence"), BAD, ids=[text for _, text in BAD])
def test_a_bad_folder_is_one_sentence(
    folder: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(folder)
    with pytest.raises(BundleError) as caught:
        open_model(folder)
    message = str(caught.value)
    assert sentence in message
    assert message.endswith(".")
    assert "\n" not in message


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / VOCABULARY
    path.write_bytes("a\r\n\u2028\nb\x85c\n\u3000".encode())
    assert read_vocabulary(path) == ("a", "\u2028", "b\x85c", "\u3000")
