"""A node's copies: fetched once, checked, and never seen half."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from runtime.cluster.part_cache import PartCache, bundle_key
from runtime.manifest import BundleFile, Manifest
from scheduler.errors import BundleError
from tests.support.bundles import write_bundle

CONTENT = bytes(range(256)) * 40


def entry(path: str = "mnn/block_0.mnn", content: bytes = CONTENT) -> BundleFile:
    return BundleFile(
        path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


def test_a_file_is_fetched_in_pieces_of_any_order_and_only_once(tmp_path: Path) -> None:
    cache, file = PartCache("key", folder=tmp_path), entry()
    assert cache.missing([file]) == [file]
    cache.write(file, 5000, CONTENT[5000:])
    assert cache.missing([file]) == [file]
    cache.write(file, 0, CONTENT[:5000])
    assert not (tmp_path / "key" / file.path).exists()
    cache.finish(file)
    assert cache.path(file.path).read_bytes() == CONTENT
    assert cache.missing([file]) == []
    assert PartCache("key", folder=tmp_path).missing([file]) == []
    assert [one.name for one in (tmp_path / "key" / "mnn").iterdir()] == ["block_0.mnn"]


def test_a_damaged_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    cache, file = PartCache("key", folder=tmp_path), entry()
    cache.write(file, 0, CONTENT[:-1] + b"!")
    with pytest.raises(BundleError, match=r"block_0\.mnn arrived damaged"):
        cache.finish(file)
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_a_copy_that_was_changed_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    cache, file = PartCache("key", folder=tmp_path), entry()
    cache.write(file, 0, CONTENT)
    cache.finish(file)
    cache.path(file.path).write_bytes(CONTENT[:-1] + b"!")
    assert cache.missing([file]) == [file]


def test_files_of_a_shared_folder_are_used_where_all_are_right(tmp_path: Path) -> None:
    graph, weights = entry("a.mnn"), entry("a.mnn.weight", b"w" * 30)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.mnn").write_bytes(CONTENT)
    cache = PartCache("key", shared, tmp_path / "own")
    assert cache.missing([graph, weights]) == [graph, weights]
    (shared / "a.mnn.weight").write_bytes(b"w" * 30)
    assert cache.missing([graph, weights]) == []
    assert cache.path("a.mnn") == shared / "a.mnn"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(BundleError, match="outside of the bundle"):
        PartCache("key", folder=tmp_path).write(entry(path), 0, CONTENT)


@pytest.mark.parametrize(("offset", "data"), [(-1, b"x"), (len(CONTENT), b"x"), (0, CONTENT * 2)])
def test_a_piece_outside_of_its_file_is_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    with pytest.raises(BundleError, match="a piece lies outside"):
        PartCache("key", folder=tmp_path).write(entry(), offset, data)


def test_bundles_have_one_folder_each(tmp_path: Path) -> None:
    documents = [write_bundle(tmp_path / str(n), blocks=n) for n in (2, 3)]
    keys = [bundle_key(Manifest.model_validate(one)) for one in (*documents, documents[0])]
    assert keys[0] == keys[2] != keys[1]
