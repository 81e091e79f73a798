"""Run a bundle's blocks on the real MNN and hold them against a reference's hidden states."""

from __future__ import annotations

import numpy as np

from runtime.backends.mnn import MnnBackend
from runtime.bundle import Bundle, select_variant
from runtime.embedding import EmbeddingFile
from runtime.stage import Stage, Step
from runtime.step_inputs import Row

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
    """Prefill three texts as one batch, decode all together, and compare behind every block.

    ``states`` has for each text the hidden states [tokens, hidden] behind the embedding, which must
    be equal, and each block; ``logits`` [tokens, vocab]. Errors are norms of the difference over
    norms.
    """
    geometry, embedding = bundle.manifest.geometry, bundle.manifest.embedding
    rows = EmbeddingFile(
        bundle.file(embedding.file), geometry.vocab_size, geometry.hidden_size, embedding.dtype
    )
    longest = max(LENGTHS)
    padded = [ids[:n] + [0] * (longest - n) for ids, n in zip(texts, LENGTHS, strict=True)]
    prefill = np.stack([rows.lookup(ids) for ids in padded])
    steps = [
        np.stack([rows.lookup([ids[n + step]]) for ids, n in zip(texts, LENGTHS, strict=True)])
        for step in range(STEPS)
    ]
    for text, n in enumerate(LENGTHS):
        assert relative_error(prefill[text, :n], states[text][0][:n]) == 0
    for number in range(geometry.blocks):
        stage = Stage(_backend(bundle, f"block_{number}"), geometry.turning, geometry.max_context)
        prefill = stage.forward(Step((Row(0),) * 3, longest), prefill)
        for text, n in enumerate(LENGTHS):
            assert relative_error(prefill[text, :n], states[text][number + 1][:n]) < tolerance
        for done in range(STEPS):
            steps[done] = stage.forward(Step(tuple(Row(n + done) for n in LENGTHS), 1), steps[done])
            for text, n in enumerate(LENGTHS):
                expected = states[text][number + 1][n + done]
                assert relative_error(steps[done][text, 0], expected) < tolerance
    found = _backend(bundle, "lm_head").lm_head(steps[-1][:, 0])
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
