"""The training script end to end at a tiny size, and its model against an independent one."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: the tiny model's training is not tested"
)
pytest.importorskip("safetensors", reason="safetensors is not installed (extra: export)")

from runtime.manifest import SpecialTokens  # noqa: E402
from tests.reference import chatglm_numpy  # noqa: E402
from training.checkpoint import load_checkpoint  # noqa: E402
from training.evaluate import answers, right_by_category  # noqa: E402
from training.fitting import answer_loss, batches, encode  # noqa: E402
from training.item import Item  # noqa: E402
from training.model import TinyConfig  # noqa: E402
from training.questions import exam_items  # noqa: E402
from training.tokenizer_training import VOCABULARY, train_tokenizer  # noqa: E402
from training.train_tiny_glm import make  # noqa: E402

MICRO = TinyConfig(VOCABULARY, hidden_size=32, heads=2, blocks=2, ffn_size=64)
FILES = {"config.json", "model.safetensors", "ice_text.model", "README.md"}


SENTENCES = 2000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small are slower on two threads, and results must not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "micro"
    exam = exam_items()[::20]
    return out, make(out, MICRO, exam, steps=40, seed=6, rows=16, sentences=SENTENCES)


def test_training_writes_a_whole_checkpoint_and_nothing_else(made):
    out, _losses = made
    assert {path.name for path in out.iterdir()} == FILES
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "chatglm"
    assert config["position_encoding_2d"] is True
    assert (config["num_layers"], config["hidden_size"]) == (MICRO.blocks, MICRO.hidden_size)


def test_the_loss_falls(made):
    _out, losses = made
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_weights_are_fp16_under_the_published_names(made):
    from safetensors.numpy import load_file

    tensors = load_file(made[0] / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    hidden, ffn = MICRO.hidden_size, MICRO.ffn_size
    shapes = {
        "transformer.word_embeddings.weight": (VOCABULARY, hidden),
        "transformer.final_layernorm.weight": (hidden,),
        "transformer.final_layernorm.bias": (hidden,),
        "lm_head.weight": (VOCABULARY, hidden),
    }
    for block in range(MICRO.blocks):
        for name, shape in {
            "input_layernorm": (hidden,),
            "attention.query_key_value": (3 * hidden, hidden),
            "attention.dense": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.dense_h_to_4h": (ffn, hidden),
            "mlp.dense_4h_to_h": (hidden, ffn),
        }.items():
            shapes[f"transformer.layers.{block}.{name}.weight"] = shape
            shapes[f"transformer.layers.{block}.{name}.bias"] = shape[:1]
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes


def test_the_product_reads_the_checkpoint(made):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra: export)")
    from runtime.export.checkpoint import Checkpoint

    checkpoint = Checkpoint(made[0])
    assert checkpoint.source_precision == "fp16"
    assert checkpoint.vocab_size == VOCABULARY


def test_the_model_card_states_what_was_measured(made):
    card = (made[0] / "README.md").read_text(encoding="utf-8")
    assert "40 steps of 16 questions" in card
    assert "Apache-2.0" in card
    assert "法国的首都是哪里？" in card


@pytest.mark.parametrize("answer_tokens", [0, 1, 7])
def test_the_model_computes_what_chatglm_is_defined_to(made, answer_tokens):
    """Against the independent NumPy reference: prompt, <sop>, and the first answer tokens."""
    model, tokenizer = load_checkpoint(made[0])
    special = tokenizer.special
    ids = [*tokenizer.encode("12+7等于多少？"), special.gmask, special.bos]
    end = len(ids) - 1
    ids += tokenizer.encode("12+7等于19。")[:answer_tokens]
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    config = json.loads((made[0] / "config.json").read_text())
    expected = chatglm_numpy.forward(chatglm_numpy.Model(tensors, config), ids).logits
    with torch.no_grad():
        hidden = model.hidden_states(torch.tensor([ids]), torch.tensor([end]))
        logits = model.lm_head(hidden)[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_padding_changes_nothing(made):
    """Rows of different lengths in one batch have the loss of the rows alone."""
    model, tokenizer = load_checkpoint(made[0])
    batch = next(batches(tokenizer, random.Random(3), rows=4))
    counts = (batch.lengths - batch.context_ends - 1).tolist()
    with torch.no_grad():
        together = answer_loss(model, batch).item()
        alone = [
            answer_loss(
                model,
                type(batch)(
                    batch.ids[row : row + 1, : int(batch.lengths[row])],
                    batch.context_ends[row : row + 1],
                    batch.lengths[row : row + 1],
                ),
            ).item()
            for row in range(4)
        ]
    assert together == pytest.approx(np.average(alone, weights=counts), rel=1e-4)


def test_batched_greedy_answers_equal_those_of_the_reference(made):
    model, tokenizer = load_checkpoint(made[0])
    items = [Item("", "", question, "") for question in ("你好", "What is 12 plus 7?")]
    before = Item("", "", "法国的首都是哪里？", "法国的首都是巴黎。")
    items.append(Item("", "", "那日本呢？", "").after([before]))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = json.loads((made[0] / "config.json").read_text())
    reference = chatglm_numpy.Model(tensors, config)
    from runtime.answer_text import postprocess
    from runtime.prompt import build_prompt
    from training.evaluate import LONGEST_ANSWER

    for item, text in zip(items, answers(model, tokenizer, items), strict=True):
        prompt = tokenizer.encode(build_prompt(item.history, item.question))
        ids = chatglm_numpy.generate(reference, prompt, LONGEST_ANSWER)
        assert text == postprocess(tokenizer.decode(ids))


def test_rights_are_counted_by_category():
    items = [Item("a", "", "1", "x"), Item("a", "", "2", "x"), Item("b", "", "3", "y")]
    assert right_by_category(items, ["x", "z", "y"]) == {"a": (1, 2), "b": (1, 1)}


def test_the_same_seed_makes_the_same_model(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    losses = [
        make(out, MICRO, exam_items()[:2], steps=3, seed=9, rows=4, sentences=SENTENCES)
        for out in (first, second)
    ]
    assert losses[0] == losses[1]
    for name in FILES - {"README.md"}:  # the card states times
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_only_the_answer_is_learned(made):
    """A row holds the prompt, [gMASK] <sop>, the answer and <eop>; the loss starts at <sop>."""
    _model, tokenizer = load_checkpoint(made[0])
    ids, end = encode(tokenizer, Item("", "", "你好", "你好！"))
    special = tokenizer.special
    assert ids[: end + 1] == [*tokenizer.encode("你好"), special.gmask, special.bos]
    assert ids[end + 1 :] == [*tokenizer.encode("你好！"), special.eos]


def test_the_tokenizer_keeps_digits_apart_and_any_text_whole(tmp_path):
    tokenizer = train_tokenizer(tmp_path / "ice_text.model", seed=6, sentences=SENTENCES)
    assert isinstance(tokenizer.special, SpecialTokens)
    assert len({*tokenizer.special.model_dump().values()}) == 5
    assert len(tokenizer.encode("+12345")) == len(tokenizer.encode("+")) + 5
    for text in ("𝄞 naïve Ωμέγα", "tab\tand\nline  two", "[gMASK]<eop>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
