"""Every family, from the files that transformers writes to hidden states, against transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from runtime.backends.mnn import MnnBackend
from runtime.bundle import Bundle, open_bundle, select_variant
from runtime.embedding import EmbeddingFile
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.stage import Stage, Step
from runtime.step_inputs import Row
from tests.support.decoder_models import MODELS, block_outputs, make_model, save_model

pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("transformers", reason="needs transformers")

LENGTHS = (3, 70, 5)  # the cache grows at 64
STEPS = 2


@dataclass
class Pair:
    bundle: Bundle
    texts: list[list[int]]
    expected: list[list[np.ndarray]]
    """By text, then behind the embedding and each block."""
    logits: list[np.ndarray]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("family")
    model: Any = make_model(request.param)
    save_model(model, folder / "checkpoint")
    export_bundle(ExportRequest(folder / "checkpoint", folder / "bundle", ("fp32",)))
    random = np.random.default_rng(1)
    texts = [random.integers(3, 96, length + STEPS).tolist() for length in LENGTHS]
    outputs = [block_outputs(model, ids) for ids in texts]
    states, logits = zip(*outputs, strict=True)
    return Pair(open_bundle(folder / "bundle"), texts, list(states), list(logits))


def backend_with(bundle: Bundle, part: str) -> MnnBackend:
    geometry = bundle.manifest.geometry
    backend = MnnBackend("cpu", 1, geometry.kv_heads, geometry.head_dim)
    path = bundle.file(select_variant(bundle.manifest, part, "mnn", "fp32").variant.files[0])
    (backend.load_lm_head if part == "lm_head" else backend.load_block)(path)
    return backend


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_hidden_states_of_prefill_and_decode_of_three_texts_together(pair: Pair) -> None:
    bundle, geometry = pair.bundle, pair.bundle.manifest.geometry
    embedding = bundle.manifest.embedding
    rows = EmbeddingFile(
        bundle.file(embedding.file), geometry.vocab_size, geometry.hidden_size, embedding.dtype
    )
    longest = max(LENGTHS)
    padded = [ids[:n] + [0] * (longest - n) for ids, n in zip(pair.texts, LENGTHS, strict=True)]
    prefill = np.stack([rows.lookup(ids) for ids in padded])
    steps = [
        np.stack([rows.lookup([ids[n + step]]) for ids, n in zip(pair.texts, LENGTHS, strict=True)])
        for step in range(STEPS)
    ]
    for text, n in enumerate(LENGTHS):
        assert error(prefill[text, :n], pair.expected[text][0][:n]) == 0
    for number in range(geometry.blocks):
        backend = backend_with(bundle, f"block_{number}")
        stage = Stage(backend, geometry.turning, geometry.max_context)
        prefill = stage.forward(Step((Row(0),) * 3, longest), prefill)
        for text, n in enumerate(LENGTHS):
            assert error(prefill[text, :n], pair.expected[text][number + 1][:n]) < 1e-5
        for done in range(STEPS):
            at = tuple(Row(n + done) for n in LENGTHS)
            steps[done] = stage.forward(Step(at, 1), steps[done])
            for text, n in enumerate(LENGTHS):
                assert error(steps[done][text, 0], pair.expected[text][number + 1][n + done]) < 1e-5
    logits = backend_with(bundle, "lm_head").lm_head(steps[-1][:, 0])
    assert error(logits, np.stack([one[-1] for one in pair.logits])) < 1e-5
