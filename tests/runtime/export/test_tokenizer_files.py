"""Vocabularies in other forms become a tokenizer.json with the same ids."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.chat_template import ChatTemplate
from runtime.export.builtin_templates import CHATGLM2, CHATGLM3, GLM4
from runtime.export.tokenizer_files import (
    end_of_turn_ids,
    tokenizer_for_bundle,
    tokenizer_sources,
)
from runtime.json_tokenizer import JsonTokenizer
from scheduler.errors import CheckpointError
from tests.support.json_tokenizer import PLAIN_TEXTS, train_sentencepiece, write_tokenizer_json

ROWS = 4096
BLANK = 417  # "▁" in every trained model


def write_json(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")


def converted(folder, vocab_size=ROWS):
    """The bundle's entry and its opened tokenizer, from the checkpoint in `folder`."""
    entry = tokenizer_for_bundle(folder, folder / "bundle", vocab_size)
    return entry, JsonTokenizer(folder / "bundle" / entry.file.path)


@pytest.fixture(scope="module", params=["llama", "nfkc", "tight", "no blank"])
def piece_pair(request, tmp_path_factory):
    """A converted SentencePiece model, and SentencePiece itself."""
    folder = tmp_path_factory.mktemp("pieces")
    options = {
        "llama": {},
        "nfkc": {"normalization_rule_name": "nmt_nfkc"},
        "tight": {"remove_extra_whitespaces": True},
        "no blank": {"add_dummy_prefix": False},
    }[request.param]
    train_sentencepiece(folder / "tokenizer.model", **options)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return converted(folder)[1], pieces


@settings(deadline=None, max_examples=300)
@given(text=PLAIN_TEXTS)
def test_sentencepiece_models_keep_their_ids(piece_pair, text):
    ours, pieces = piece_pair
    text = text.replace("\r\n", "\n")  # the package's NFKC takes both for one character
    # Where NFKC leaves nothing, SentencePiece still puts its blank.
    assert (ours.encode(text) or [BLANK]) == (pieces.Encode(text) or [BLANK])


@settings(deadline=None)
@given(ids=st.lists(st.integers(3, 479), max_size=30))
def test_sentencepiece_models_keep_their_texts(piece_pair, ids):
    ours, pieces = piece_pair
    expected = pieces.Decode(ids)
    if "\ufffd" not in expected:
        assert ours.decode(ids) == expected


def test_llama_begins_a_text_with_bos(tmp_path):
    train_sentencepiece(tmp_path / "tokenizer.model")
    settings_ = {"tokenizer_class": "LlamaTokenizer", "bos_token": {"content": "<s>"}}
    write_json(tmp_path / "tokenizer_config.json", settings_ | {"eos_token": "</s>"})
    entry, tokenizer = converted(tmp_path)
    assert (entry.bos, entry.eos, entry.add_bos, entry.chat_template) == ("<s>", "</s>", True, None)
    assert tokenizer.encode_markup("<s>Hello</s>") == [1, *tokenizer.encode("Hello"), 2]
    assert [path.name for path in tokenizer_sources(tmp_path)] == [
        "tokenizer.model",
        "tokenizer_config.json",
    ]


CHATGLM_TOKENS = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]


@pytest.mark.parametrize("roles", [False, True])
def test_chatglm2_and_3_number_their_tokens_behind_the_pieces(tmp_path, roles):
    train_sentencepiece(tmp_path / "tokenizer.model")
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "ChatGLMTokenizer"})
    code = f"special = {ROLES}" if roles else "special = []"
    (tmp_path / "tokenization_chatglm.py").write_text(
        f"raise SystemExit\n{code}\n".replace("'", '"')
    )
    entry, tokenizer = converted(tmp_path)
    names = CHATGLM_TOKENS + (ROLES if roles else [])
    assert [tokenizer.markup[name] for name in names] == list(range(480, 480 + len(names)))
    assert (entry.bos, entry.add_bos) == ("[gMASK]sop", True)
    template = (tmp_path / "bundle" / entry.chat_template.path).read_text()
    assert template == (CHATGLM3 if roles else CHATGLM2)
    assert end_of_turn_ids(tmp_path) == ([486, 488] if roles else [])
    assert tokenizer.encode("sop") != [483]  # typed, it is three letters


def test_chatglm3_s_prompt_is_the_one_its_code_builds(tmp_path):
    """Role token, then line end and text, each encoded by SentencePiece on its own."""
    train_sentencepiece(tmp_path / "tokenizer.model")
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "ChatGLMTokenizer"})
    (tmp_path / "tokenization_chatglm.py").write_text('"<|assistant|>"')
    _, tokenizer = converted(tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    messages = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "你好 x\nthe capital"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": " the"},
    ]
    template = ChatTemplate(CHATGLM3)
    found = tokenizer.encode_markup(template.render(messages))
    template.close()
    expected = [tokenizer.markup["[gMASK]"], tokenizer.markup["sop"]]
    for message in messages:
        expected.append(tokenizer.markup[f"<|{message['role']}|>"])
        expected += pieces.Encode("\n") + pieces.Encode(message["content"])
    assert found == [*expected, tokenizer.markup["<|assistant|>"]]


def ranks_of_bytes(merges):
    """A tiktoken vocabulary: 256 bytes, then what the merges join."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for text in merges:
        ranks.setdefault(text.encode(), len(ranks))
    return ranks


WORDS = "th he the in ab bc abc cab 12 你 你好 's er re ere ther there aa"
RANKS = ranks_of_bytes([" t", " the", "  ", "    ", "\n\n", " there", *WORDS.split()])
ADDED = {
    str(number): {"content": text, "special": True}
    for number, text in enumerate(["<|endoftext|>", "[gMASK]", "<sop>", *ROLES], len(RANKS))
}


def tiktoken_ids(piece):
    """Join the neighbours of the lowest rank until no neighbours join, as tiktoken does."""
    if piece in RANKS:
        return [RANKS[piece]]
    parts = [bytes([byte]) for byte in piece]
    while True:
        joined = [(RANKS.get(a + b), at) for at, (a, b) in enumerate(pairwise(parts))]
        ranked = [pair for pair in joined if pair[0] is not None]
        if not ranked:
            return [RANKS[part] for part in parts]
        _, at = min(ranked)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.fixture(scope="module")
def glm4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glm4")
    lines = [base64.b64encode(token) + b" %d" % rank for token, rank in RANKS.items()]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    write_json(
        folder / "tokenizer_config.json",
        {"added_tokens_decoder": ADDED, "eos_token": "<|endoftext|>"},
    )
    return folder


@settings(deadline=None, max_examples=300)
@given(word=st.text(alphabet="abctheri你好é", min_size=1, max_size=14))
def test_tiktoken_vocabularies_join_as_tiktoken_does(glm4, word):
    """One word of letters, which the pattern does not cut."""
    tokenizer = JsonTokenizer(glm4_file(glm4))
    assert tokenizer.encode(word) == tiktoken_ids(word.encode())


def glm4_file(folder):
    path = folder / "bundle" / "tokenizer" / "tokenizer.json"
    if not path.exists():
        converted(folder)
    return path


def test_glm4_has_its_roles_and_template(glm4):
    entry, tokenizer = converted(glm4)
    assert (entry.bos, entry.add_bos, entry.eos) == ("[gMASK]<sop>", True, "<|endoftext|>")
    assert (glm4 / "bundle" / entry.chat_template.path).read_text() == GLM4
    user, observation = (tokenizer.markup[one] for one in ("<|user|>", "<|observation|>"))
    assert end_of_turn_ids(glm4) == [user, observation]
    assert tokenizer.decode(tokenizer.encode("there's 你好 12\n\n")) == "there's 你好 12\n\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\x01 nonsense", "no SentencePiece model"),
        (b"", "no SentencePiece model|has no pieces|another kind"),
        (b"YQ== 0\nYg== 1\n", "incomplete"),
        (b"YQ== 0\nnonsense\n", "damaged in line 2"),
    ],
)
def test_damaged_vocabularies_are_refused(tmp_path, content, reason):
    (tmp_path / "tokenizer.model").write_bytes(content)
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": ADDED})
    with pytest.raises(CheckpointError, match=reason) as refused:
        converted(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_unigram_model_is_refused_by_name(tmp_path):
    train_sentencepiece(tmp_path / "tokenizer.model", model_type="unigram", vocab_size=330)
    with pytest.raises(CheckpointError, match="another kind than pair encoding"):
        converted(tmp_path)


def test_a_checkpoint_without_vocabulary_is_refused(tmp_path):
    for call in (tokenizer_sources, end_of_turn_ids, converted):
        with pytest.raises(
            CheckpointError, match=r"has no tokenizer\.json and no tokenizer\.model"
        ):
            call(tmp_path)


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    write_tokenizer_json(tmp_path / "tokenizer.json", "byte level")
    with pytest.raises(CheckpointError, match="belong to different models"):
        converted(tmp_path, vocab_size=300)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": json.dumps({"chat_template": "one"})}, "one"),
        (
            {"chat_template.jinja": "two", "tokenizer_config.json": '{"chat_template": "one"}'},
            "two",
        ),
        ({"chat_template.json": json.dumps({"chat_template": "three"})}, "three"),
        (
            {
                "tokenizer_config.json": json.dumps(
                    {
                        "chat_template": [
                            {"name": "tool_use", "template": "four"},
                            {"name": "default", "template": "five"},
                        ]
                    }
                )
            },
            "five",
        ),
    ],
)
def test_the_chat_template_is_found_where_models_keep_it(tmp_path, files, expected):
    write_tokenizer_json(tmp_path / "tokenizer.json", "byte level")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    entry, _ = converted(tmp_path)
    assert (tmp_path / "bundle" / entry.chat_template.path).read_text() == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}'),
        ("tokenizer_config.json", '{"chat_template": "{% if %}"}'),
        ("chat_template.jinja", "x" * 1_000_000),
        ("special_tokens_map.json", "nothing"),
    ],
)
def test_damaged_settings_are_refused(tmp_path, name, content):
    write_tokenizer_json(tmp_path / "tokenizer.json", "byte level")
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError) as refused:
        converted(tmp_path)
    assert "\n" not in str(refused.value)
