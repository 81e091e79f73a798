"""A folder of the article's export, through real MNN and real workers, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from runtime.article.folder import open_article_export
from runtime.article.stage import ArticleStage
from runtime.backends.mnn_article import ArticleBackend
from runtime.bundle import Bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.embedding import EmbeddingFile
from runtime.engine import Engine, Generation
from runtime.launch import launches_of
from runtime.sampling import Sampling
from runtime.stage import Step
from runtime.step_inputs import Row
from scheduler.errors import EngineError, UserInputError
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.reference import chatglm_numpy
from tests.support.article_export import write_article_export
from tests.support.chatglm_checkpoint import Shape, config_for, random_tensors

TOLERANCE = 1e-5
SHAPE = Shape(hidden=128, heads=4, blocks=3, vocab=96, max_context=256)
GENERATED = 5


@dataclass(frozen=True)
class Case:
    bundle: Bundle
    model: chatglm_numpy.Model


def made(folder: Path, *, integer_mask: bool) -> Case:
    tensors = random_tensors(SHAPE, seed=7)
    # The export keeps embeddings in bf16: the reference starts from the same values.
    name = "transformer.word_embeddings.weight"
    bits = tensors[name].view(np.uint32) & 0xFFFF0000
    tensors[name] = bits.view(np.float32)
    write_article_export(folder, tensors, SHAPE, integer_mask=integer_mask)
    return Case(open_article_export(folder), chatglm_numpy.Model(tensors, config_for(SHAPE)))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("article") / "export", integer_mask=True)


@pytest.fixture(scope="module")
def float_mask_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("article") / "export", integer_mask=False)


def stage_of(bundle: Bundle, blocks: range, *, lm: bool = False) -> ArticleStage:
    geometry = bundle.manifest.geometry
    backend = ArticleBackend("cpu", 1, geometry.hidden_size)
    for number in blocks:
        backend.load_block(bundle.path / f"glm_block_{number}.mnn")
    if lm:
        backend.load_lm_head(bundle.path / "lm.mnn")
    return ArticleStage(backend, geometry.vocab_size)


def sequence(bundle: Bundle) -> tuple[list[int], list[int]]:
    tokens = bundle.manifest.tokens
    return [20, 31, 42, 53, 64, 75, tokens.gmask, tokens.bos], [11, 22, 33, 44, 55][:GENERATED]


def expected_states(case: Case, ids: list[int]) -> list[np.ndarray]:
    """Hidden states as the export's blocks return them: the last one with the final norm."""
    states = chatglm_numpy.forward(case.model, ids).hidden
    last = chatglm_numpy.layer_norm(case.model, states[-1], "transformer.final_layernorm")
    return [*states[:-1], last]


def embedded(bundle: Bundle, ids: list[int]) -> np.ndarray:
    geometry = bundle.manifest.geometry
    path = bundle.file(bundle.manifest.embedding.file)
    return EmbeddingFile(path, geometry.vocab_size, geometry.hidden_size).lookup(ids)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("fixture", ["case", "float_mask_case"])
def test_hidden_states_of_prefill_and_decode_agree_with_the_reference(
    fixture: str,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    case: Case = request.getfixturevalue(fixture)
    prompt, generated = sequence(case.bundle)
    start = len(prompt)
    expected = expected_states(case, prompt + generated)
    hidden = embedded(case.bundle, prompt + generated)
    prefill, steps = hidden[None, :start], [hidden[None, [start + i]] for i in range(GENERATED)]
    errors = []
    for number in range(SHAPE.blocks):
        stage = stage_of(case.bundle, range(number, number + 1))
        prefill = stage.forward(Step((Row(0, start - 1, start - 2),), start), prefill)
        errors.append(relative_error(prefill[0], expected[number + 1][:start]))
        for done, step in enumerate(steps):
            row = Row(start + done, start - 1, start - 2)
            steps[done] = stage.forward(Step((row,), 1), step)
            errors.append(relative_error(steps[done][0, 0], expected[number + 1][start + done]))
    record_property(
        "figure", f"article export, {fixture}: largest relative error {max(errors):.1e}"
    )
    assert max(errors) < TOLERANCE


def test_a_shorter_history_replays_and_a_new_sequence_forgets(case: Case) -> None:
    prompt, generated = sequence(case.bundle)
    start = len(prompt)
    hidden = embedded(case.bundle, prompt + generated)[None]
    stage = stage_of(case.bundle, range(SHAPE.blocks))

    def run(first: int, last: int) -> np.ndarray:
        step = Step((Row(first, start - 1, start - 2),), last - first)
        return np.array(stage.forward(step, hidden[:, first:last]))

    whole = run(0, start)
    once = [run(start + i, start + i + 1) for i in range(2)]
    again = run(start + 1, start + 2)  # the history holds one token more than counts
    np.testing.assert_array_equal(again, once[1])
    several = run(start, start + 2)
    assert relative_error(several, np.concatenate(once, 1)) < TOLERANCE
    np.testing.assert_array_equal(run(0, start), whole)


def test_several_sequences_at_once_are_refused(case: Case) -> None:
    stage = stage_of(case.bundle, range(1))
    rows = (Row(0, 3, 2), Row(0, 3, 2))
    with pytest.raises(EngineError, match="one sequence at a time"):
        stage.forward(Step(rows, 4), np.zeros((2, 4, SHAPE.hidden), np.float32))


def generated_through_workers(bundle: Bundle, gpu_blocks: int, prompt: list[int]) -> list[int]:
    plan = make_plan(
        PlanRequest(
            spec_of_bundle(bundle),
            vram_bytes=(1 << 33,),
            gpu_blocks=gpu_blocks,
            gpu_precision="fp32",
            cpu_precision="fp32",
            context=SHAPE.max_context,
        )
    )
    launches = launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)
    with Engine(bundle, launches, SHAPE.max_context) as engine:
        first = list(engine.generate(prompt, Sampling(), 12, Generation()))
        assert list(engine.generate(prompt, Sampling(), 12, Generation())) == first
    return first


@pytest.mark.parametrize("gpu_blocks", range(SHAPE.blocks + 1))
def test_greedy_tokens_are_the_references_at_every_split(case: Case, gpu_blocks: int) -> None:
    tokens = case.bundle.manifest.tokens
    text = [20, 31, 42, 53, 64, 75]
    expected = chatglm_numpy.generate(case.model, text, 12)
    assert len(expected) > 3
    prompt = [*text, tokens.gmask, tokens.bos]
    assert generated_through_workers(case.bundle, gpu_blocks, prompt) == expected


def test_the_engine_refuses_to_sample(case: Case) -> None:
    plan = make_plan(
        PlanRequest(
            spec_of_bundle(case.bundle), gpu_precision="fp32", cpu_precision="fp32", context=64
        )
    )
    launches = launches_of(plan, case.bundle, frozenset({"mnn:cpu"}), {}, 1)
    with (
        Engine(case.bundle, launches, 64) as engine,
        pytest.raises(UserInputError, match=r"--top-k 5 needs logits.*ArgMax"),
    ):
        list(engine.generate([1, 2, 92, 94], Sampling(top_k=5), 4, Generation()))
