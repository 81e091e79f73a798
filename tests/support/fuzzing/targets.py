"""Every reader of input that others write, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.fuzzing.command_lines import command_line, serve_config
from tests.support.fuzzing.conversations import conversation
from tests.support.fuzzing.documents import (
    cluster,
    hf_config,
    host_profile,
    manifest,
    measurements,
    origin,
    plan,
    profile,
)
from tests.support.fuzzing.model_files import (
    chat_template,
    gguf_file,
    safetensors_file,
    sentencepiece_model,
    tokenizer_json,
    tokenizer_settings,
    torch_file,
)
from tests.support.fuzzing.mutate import mutate_binary, mutate_json, mutate_text, mutate_words
from tests.support.fuzzing.requests import http_body
from tests.support.fuzzing.target import Target

TARGETS: Mapping[str, Target] = {
    "bundle manifest": Target(manifest, mutate_json, 20),
    "profile TOML": Target(profile, mutate_text, 20),
    "cluster TOML": Target(cluster, mutate_text, 6),
    "plan JSON": Target(plan, mutate_json, 20),
    "HF config.json": Target(hf_config, mutate_json, 20),
    "tokenizer.json": Target(tokenizer_json, mutate_json, 6),
    "tokenizer settings": Target(tokenizer_settings, mutate_json, 6),
    "SentencePiece model": Target(sentencepiece_model, mutate_binary, 10),
    "chat template": Target(chat_template, mutate_text, 4),
    "safetensors": Target(safetensors_file, mutate_binary, 16),
    "torch .bin": Target(torch_file, mutate_binary, 12),
    "GGUF": Target(gguf_file, mutate_binary, 12),
    "measurements CSV": Target(measurements, mutate_text, 20),
    "host profile JSON": Target(host_profile, mutate_json, 16),
    "origin and shard index": Target(origin, mutate_json, 10),
    "conversation": Target(conversation, mutate_json, 6),
    "serve TOML": Target(serve_config, mutate_text, 12),
    "command line": Target(command_line, mutate_words, 4),
    "HTTP body": Target(http_body, mutate_json, 8),
}
