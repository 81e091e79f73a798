"""Run a bundle's blocks on the real MNN and hold them against a reference's hidden states."""

from __future__ import annotations

import numpy as np

from runtime.backends.mnn import MnnBackend
from runtime.bundle import Bundle, select_variant
from runtime.embedding import EmbeddingFile
from runtime.stage import Stage, finished
from runtime.step_inputs import Row
from scheduler.slots import kv_capacity

STEPS = 2
LENGTHS = (3, 70, 5)  # the cache grows at 64


def random_texts(vocab_size: int) -> list[list[int]]:
    """Token ids of three prompts of `LENGTHS`, each with the tokens of `STEPS` further steps."""
    random = np.random.default_rng(1)
    return [random.integers(3, vocab_size, length + STEPS).tolist() for length in LENGTHS]


def require_same_states(
    bundle: Bundle,
    texts: list[list[int]],
    states: list[list[np.ndarray]],
    logits: list[np.ndarray],
    tolerance: float = 1e-5,
) -> None:
    """Prefill three texts, decode them as one batch, and compare behind every block.

    ``states`` has for each text the hidden states [tokens, hidden] behind the embedding, which must
    be equal, and each block; ``logits`` [tokens, vocab]. Errors are norms of the difference over
    norms.
    """
    geometry, embedding = bundle.manifest.geometry, bundle.manifest.embedding
    rows = EmbeddingFile(
        bundle.file(embedding.file), geometry.vocab_size, geometry.hidden_size, embedding.dtype
    )
    hidden = [rows.lookup(ids) for ids in texts]
    prompts = [one[:-STEPS] for one in hidden]
    steps = [np.stack([one[step - STEPS] for one in hidden]) for step in range(STEPS)]
    for found, expected in zip(hidden, states, strict=True):
        assert relative_error(found, expected[0]) == 0
    capacity = kv_capacity(max(LENGTHS) + STEPS)
    for number in range(geometry.blocks):
        stage = Stage(_backend(bundle, f"block_{number}"), geometry.turning, geometry.max_context)
        stage.arrange(0, len(texts), capacity, [-1] * len(texts))
        expected = [one[number + 1] for one in states]
        for text, n in enumerate(LENGTHS):
            prompts[text] = finished(stage.prefill(0, text, Row(0), prompts[text])).copy()
            assert relative_error(prompts[text], expected[text][:n]) < tolerance
        for done in range(STEPS):
            at = [Row(n + done) for n in LENGTHS]
            steps[done] = stage.decode(0, at, capacity, steps[done]).copy()
            for text, row in enumerate(at):
                assert relative_error(steps[done][text], expected[text][row.cached]) < tolerance
    found = _backend(bundle, "lm_head").lm_head(steps[-1])
    assert relative_error(found, np.stack([one[-1] for one in logits])) < tolerance


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _backend(bundle: Bundle, part: str) -> MnnBackend:
    geometry = bundle.manifest.geometry
    backend = MnnBackend("cpu", 1, geometry.kv_heads, geometry.head_dim)
    path = bundle.file(select_variant(bundle.manifest, part, "mnn", "fp32").variant.files[0])
    (backend.load_lm_head if part == "lm_head" else backend.load_block)(path)
    return backend
