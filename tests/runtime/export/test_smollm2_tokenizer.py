"""SmolLM2's vocabulary inside its GGUF file, against its published pipeline and llama.cpp's ids."""

from __future__ import annotations

import json

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from runtime.chat_template import ChatTemplate
from runtime.export.gguf_header import read_gguf_header
from runtime.export.gguf_vocabulary import gguf_vocabulary
from runtime.export.tokenizer_files import gguf_tokenizer_for_bundle
from runtime.json_tokenizer import JsonTokenizer
from tests.support.smollm2 import smollm2_gguf
from tests.support.tiny import questions

TEXTS = [
    "Hello world! 123",
    "  multiple   spaces",
    "a  12,000.5\n\n  7\t8",
    "def f(x):\n    return x[0] + 10**9  # don't\n",
    "法国的首都是巴黎。 Γειά σου, мир! ٣½",
    "😀👩\u200d👩\u200d👧 𝄞 e\u0301",
    " " * 40 + "x" + "\n" * 9,
    *(str(item["question"]) for item in questions()),
    *(str(item["answer"]) for item in questions()),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder, path = tmp_path_factory.mktemp("smollm2"), smollm2_gguf()
    metadata = read_gguf_header(path).metadata
    entry = gguf_tokenizer_for_bundle(metadata, path, folder)
    return metadata, entry, JsonTokenizer(folder / entry.file.path, frozenset({2}))


def test_ids_are_those_of_the_published_pipeline(opened):
    """SmolLM2's tokenizer.json cuts digits one by one, then as GPT-2 does."""
    metadata, _, ours = opened
    published = tokenizers.Tokenizer.from_str(json.dumps(gguf_vocabulary(metadata).document))
    published.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    for text in TEXTS:
        assert ours.encode(text) == published.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world! 123", [19556, 905, 17, 216, 33, 34, 35]),
        ("  multiple   spaces", [216, 2701, 256, 5600]),
        ("The capital of France is", [504, 3575, 282, 4649, 314]),
    ],
)
def test_ids_are_llama_cpp_s(opened, text, ids):
    assert opened[2].encode(text) == ids


def test_a_question_becomes_its_published_prompt(opened):
    metadata, entry, ours = opened
    assert (entry.bos, entry.eos, entry.add_bos) == ("<|im_start|>", "<|im_end|>", False)
    template = ChatTemplate(metadata["tokenizer.chat_template"])
    typed = "What is <|im_end|>?"
    text = template.render(
        [{"role": "system", "content": "Be terse."}, {"role": "user", "content": ours.guard(typed)}]
    )
    template.close()
    ids = ours.encode_markup(text)
    assert [token for token in ids if token in (1, 2)] == [1, 2, 1, 2, 1]
    assert ours.decode(ids) == f"system\nBe terse.\nuser\n{typed}\nassistant\n"
