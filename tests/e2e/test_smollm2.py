"""SmolLM2, a real instruct model, from its GGUF file to answers: the tokens of `transformers`."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from tests.bench.smollm2_parity import QUESTIONS, answers_of_bundle, reference_answers
from tests.support.smollm2 import smollm2_gguf

NEW_TOKENS = 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("smollm2") / "bundle"
    export_bundle(ExportRequest(smollm2_gguf(), folder, ("fp32",)))
    return open_bundle(folder)


@pytest.mark.parametrize("split", [0, 13])
def test_greedy_answers_are_those_of_transformers(
    bundle: Bundle, split: int, expected: list[tuple[list[int], list[int]]]
) -> None:
    answers = answers_of_bundle(bundle, split, [prompt for prompt, _ in expected], NEW_TOKENS)
    ends = bundle.manifest.end_ids
    assert answers == [[token for token in answer if token not in ends] for _, answer in expected]


@pytest.fixture(scope="module")
def expected() -> list[tuple[list[int], list[int]]]:
    pytest.importorskip("torch", reason="needs PyTorch")
    pytest.importorskip("transformers", reason="needs transformers")
    gguf: Path = smollm2_gguf()
    return reference_answers(gguf, QUESTIONS[:4], NEW_TOKENS)
