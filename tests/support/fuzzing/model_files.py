"""Files of checkpoints, which strangers publish: each one's reader, and valid ones."""

from __future__ import annotations

import contextlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

from tests.support.chatglm_checkpoint import Shape, write_checkpoint
from tests.support.fuzzing.target import Prepared, through
from tests.support.tiny import REPOSITORY, TINY_BUNDLE, TINY_CHECKPOINT

_SMALL = Shape(hidden=8, heads=2, blocks=1, vocab=24)


def tokenizer_json(folder: Path) -> Prepared:
    from runtime.json_tokenizer import JsonTokenizer
    from tests.support.json_tokenizer import KINDS, write_tokenizer_json

    path = folder / "tokenizer.json"
    seeds = []
    for kind in KINDS:
        write_tokenizer_json(path, kind)
        seeds.append(path.read_bytes())

    def read() -> None:
        tokenizer = JsonTokenizer(path, frozenset({1}))
        ids = tokenizer.encode_markup(
            "<|im_start|>Hello " + tokenizer.guard("<|im_end|> a\x00 法国")
        )
        tokenizer.decode(tokenizer.encode("x" * 300 + "  \n\t é"))
        tokenizer.decode(ids)

    return through(path, read), seeds


def sentencepiece_model(folder: Path) -> Prepared:
    from runtime.bundle import read_manifest
    from runtime.export.sentencepiece_vocabulary import sentencepiece_vocabulary
    from runtime.tokenizer import Tokenizer
    from scheduler.errors import GlmPlanError
    from tests.support.json_tokenizer import train_sentencepiece

    path = folder / "tokenizer.model"
    train_sentencepiece(path)
    seeds = [path.read_bytes(), (TINY_CHECKPOINT / "ice_text.model").read_bytes()]
    tokens = read_manifest(TINY_BUNDLE).tokens
    assert tokens is not None

    def read() -> None:
        with contextlib.suppress(GlmPlanError):
            sentencepiece_vocabulary(path, ("<|im_end|>",))
        tokenizer = Tokenizer(path, tokens)
        tokenizer.decode(tokenizer.encode("Hello 法国 <n> \x00  "))

    return through(path, read), seeds


def chat_template(folder: Path) -> Prepared:
    import runtime.chat_template
    from runtime.chat_template import ChatTemplate

    special = {"bos_token": "<s>", "eos_token": "</s>"}
    shown = {"role": "user", "content": "Hi"}
    seeds = [
        one.read_bytes()
        for one in sorted((REPOSITORY / "tests" / "data" / "chat_templates").iterdir())
        if one.suffix == ".jinja"
    ]
    # What hangs is ended after this instead of five seconds, so that more can be tried.
    runtime.chat_template.MAX_SECONDS = 0.5
    template = ChatTemplate("")  # one process renders all of them, as long as none gets it ended

    def read(content: bytes) -> None:
        template._source = content.decode("utf-8", "replace")
        template.render([shown, shown | {"role": "assistant"}, shown], special_texts=special)

    return read, seeds


def tokenizer_settings(folder: Path) -> Prepared:
    """tokenizer_config.json beside a vocabulary, and the files that may hold a template."""
    from runtime.export.tokenizer_files import end_of_turn_ids, tokenizer_for_bundle
    from tests.support.json_tokenizer import write_tokenizer_json

    write_tokenizer_json(folder / "tokenizer.json", "byte level")
    path, wrapped = folder / "tokenizer_config.json", folder / "chat_template.json"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        wrapped.write_bytes(content)
        end_of_turn_ids(folder)
        tokenizer_for_bundle(folder, folder / "out", 4096)

    token = {"content": "<s>", "lstrip": False, "special": True}
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": token,
        "eos_token": "<|im_end|>",
        "add_bos_token": True,
        "legacy": False,
        "added_tokens_decoder": {"1": token, "2": token | {"content": "<|im_end|>"}},
    }
    templates = [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]
    return read, [
        json.dumps(settings).encode(),
        json.dumps(settings | {"chat_template": templates}).encode(),
        json.dumps(settings | {"chat_template": "{{ messages[0].content }}"}).encode(),
    ]


def safetensors_file(folder: Path) -> Prepared:
    from runtime.export.safetensors_files import SafetensorsFiles

    write_checkpoint(folder / "seed", _SMALL)
    path = folder / "model.safetensors"

    def read() -> None:
        files = SafetensorsFiles(folder)
        for name in files.names()[:3]:
            _ = files.read(name), files.shape(name), files.dtype(name)

    return through(path, read), [(folder / "seed" / "model.safetensors").read_bytes()]


def torch_file(folder: Path) -> Prepared:
    """A valid zip file around a damaged data.pkl, and a damaged zip file."""
    from runtime.export.torch_archive import TorchFiles
    from tests.support import torch_zip

    write_checkpoint(folder / "seed", _SMALL, layout="torch")
    seed = folder / "seed" / "pytorch_model.bin"
    with zipfile.ZipFile(seed) as archive:
        pickle = archive.read(next(one for one in archive.namelist() if one.endswith("data.pkl")))
    path = folder / "pytorch_model.bin"

    def read(content: bytes) -> None:
        if content[:2] == b"PK":
            path.write_bytes(content)
        else:
            torch_zip.write_zip(path, content, {str(one): bytes(4096) for one in range(24)})
        files = TorchFiles(folder)
        for name in files.names()[:3]:
            _ = files.read(name), files.shape(name), files.dtype(name)

    return read, [seed.read_bytes(), pickle, pickle]


def gguf_file(folder: Path) -> Prepared:
    from runtime.export.gguf_model import open_gguf
    from tests.support.gguf_files import CONFIGS, write_gguf

    path = folder / "model.gguf"
    small = {"hidden_size": 64, "ffn_size": 32, "heads": 2, "kv_heads": 1, "head_dim": 32}
    vocabulary = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*map(chr, range(33, 126)), "ab", "Ġ", "<|im_end|>"],
        "tokenizer.ggml.token_type": [1] * 95 + [3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 95,
    }
    seeds = []
    for name in ("llama", "qwen3"):
        config = CONFIGS[name]
        rotary = replace(config.rotary, dim=32)
        write_gguf(path, name, general=vocabulary, config=replace(config, rotary=rotary, **small))
        seeds.append(path.read_bytes())

    def read() -> None:
        model = open_gguf(path)
        model.embedding_rows(0, 2)
        model.write_tokenizer(folder / "out")

    return through(path, read), seeds
