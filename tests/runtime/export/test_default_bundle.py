"""The bundle that ships is what `glm-plan export` makes of the checkpoint that ships beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import open_bundle, select_variant
from runtime.bundle_diff import diff_manifests
from runtime.export.block_graph import BLOCK_INPUTS, BLOCK_OUTPUTS
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.support.mnn_part import MnnPart

MODELS = Path(__file__).parents[3] / "profiles" / "models"


@pytest.fixture(scope="module")
def shipped():
    return open_bundle(MODELS / "tiny-glm-bundle", verify=True)


@pytest.fixture(scope="module")
def made_now(tmp_path_factory):
    out = tmp_path_factory.mktemp("default") / "bundle"
    export_bundle(ExportRequest(MODELS / "tiny-glm", out, ("fp16",)))
    return open_bundle(out)


def test_same_checkpoint_same_weights(shipped, made_now):
    diff = diff_manifests(shipped.manifest, made_now.manifest)
    assert diff.same, (diff.facts, diff.pieces)
    for file in shipped.manifest.files():
        assert (shipped.path / file.path).read_bytes() == (made_now.path / file.path).read_bytes()
    assert shipped.manifest.source_sha256 == made_now.manifest.source_sha256
    assert shipped.manifest.source_precision == "fp16"  # hence lossless


def test_same_hidden_states(shipped, made_now):
    geometry = shipped.manifest.geometry
    rng = np.random.default_rng(0)
    heads, dim = geometry.heads, geometry.head_dim
    angle = rng.random((1, 2, 3, dim // 4))
    inputs = {
        "x": rng.standard_normal((1, 3, geometry.hidden_size)),
        "mask": np.zeros((1, 1, 3, 8)),
        "cos": np.cos(angle),
        "sin": np.sin(angle),
        "past_k": rng.standard_normal((1, heads, dim, 5)),
        "past_v": rng.standard_normal((1, heads, 5, dim)),
    }
    for number in range(geometry.blocks):
        results = []
        for bundle in (shipped, made_now):
            chosen = select_variant(bundle.manifest, f"block_{number}", "mnn", "fp32")
            path = bundle.file(chosen.variant.files[0])
            results.append(MnnPart(path, list(BLOCK_INPUTS), list(BLOCK_OUTPUTS))(**inputs))
        for name in BLOCK_OUTPUTS:
            np.testing.assert_array_equal(results[0][name], results[1][name])


def test_nothing_but_the_bundle_is_shipped(shipped):
    listed = {file.path for file in shipped.manifest.files()} | {"manifest.json"}
    found = {
        file.relative_to(shipped.path).as_posix()
        for file in shipped.path.rglob("*")
        if file.is_file()
    }
    assert found == listed
