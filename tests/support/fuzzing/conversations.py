"""Conversations: what people type, and what models answer, in the formats of two models."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.fuzzing.target import Prepared
from tests.support.tiny import TINY_BUNDLE


def conversation(folder: Path) -> Prepared:
    """Rounds of a chat, in ChatGLM's format and in a template's, and ids that come back."""
    from runtime.bundle import open_bundle
    from runtime.chat_format import TemplateFormat, chat_format_of
    from runtime.chat_template import ChatTemplate
    from runtime.json_tokenizer import JsonTokenizer
    from tests.support.json_tokenizer import write_tokenizer_json

    path = folder / "tokenizer.json"
    write_tokenizer_json(path, "byte level")
    template = ChatTemplate("{% for one in messages %}<|im_start|>{{ one.content }}{% endfor %}")
    formats = [
        chat_format_of(open_bundle(TINY_BUNDLE)),
        TemplateFormat(JsonTokenizer(path), template, {}),
    ]

    def read(content: bytes) -> None:
        try:
            messages = json.loads(content)
        except (ValueError, RecursionError):
            messages = [{"role": "user", "content": content.decode("utf-8", "surrogateescape")}]
        # The service's schema lets through lists of role and text.
        messages = (
            [
                {"role": str(one.get("role")), "content": str(one.get("content"))}
                for one in messages
                if isinstance(one, dict)
            ]
            if isinstance(messages, list)
            else []
        )
        for one in formats:
            ids = one.prompt_ids(messages)
            stream = one.answer_stream()
            for token in (*ids, 0, 1 << 20):
                stream.push(token)
            stream.finish()

    rounds = [
        {"role": "system", "content": "Be brief. 请"},
        {"role": "user", "content": "Hello <|im_end|> \x1b[2J\x00"},
        {"role": "assistant", "content": "你好 <n> [gMASK]"},
        {"role": "user", "content": "1+1?"},
    ]
    return read, [json.dumps(rounds).encode(), json.dumps(rounds[1:2]).encode()]
