"""How messages become a prompt, and an answer's ids text: ChatGLM's way, a template's, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runtime.article.longest_match import LongestMatchTokenizer
from runtime.bundle import Bundle
from runtime.chat_template import MAX_TEMPLATE_BYTES, ChatTemplate
from runtime.json_tokenizer import JsonTokenizer, TextStream
from runtime.prompt import ChatGlmFormat
from runtime.tokenizer import TextCodec, Tokenizer
from scheduler.errors import BundleError, UserInputError

Message = Mapping[str, Any]
"""A message as chat services write it: "role", "content", and what else a template knows."""
Tools = Sequence[Mapping[str, Any]]


class AnswerStream(Protocol):
    """Turns an answer's ids into text as they come."""

    def push(self, token: int) -> str:
        """Add one id; return the text that has become certain, possibly empty."""

    def finish(self) -> str:
        """What was held back until now."""


class ChatFormat(Protocol):
    """What a conversation needs to know of its model's text."""

    @property
    def tokenizer(self) -> TextCodec:
        """Of plain text, without any format around it."""

    def prompt_ids(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Token ids of a prompt that an answer follows.

        Raises UserInputError for messages that the model has no form for.
        """

    def answer_stream(self) -> AnswerStream:
        """A new decoder for one answer."""


class TemplateFormat:
    """The model's own chat template.

    Markup in messages stays text: only the template's own becomes special tokens.
    """

    def __init__(
        self, tokenizer: JsonTokenizer, template: ChatTemplate, special_texts: Mapping[str, str]
    ) -> None:
        self.tokenizer = tokenizer
        self._template = template
        self._special_texts = special_texts

    def prompt_ids(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Token ids of the rendered messages and the beginning of an answer."""
        guarded_tools = None if tools is None else [self._guarded(tool) for tool in tools]
        text = self._template.render(
            [self._guarded(message) for message in messages],
            tools=guarded_tools,
            special_texts=self._special_texts,
        )
        return self.tokenizer.encode_markup(text)

    def answer_stream(self) -> AnswerStream:
        """A decoder that leaves out blanks before the answer."""
        return _WithoutFirstBlanks(TextStream(self.tokenizer))

    def _guarded(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.tokenizer.guard(value)
        if isinstance(value, Mapping):
            return {self._guarded(key): self._guarded(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._guarded(one) for one in value]
        return value


class CompletionFormat:
    """No chat template: the model continues the text that it is given."""

    def __init__(self, tokenizer: JsonTokenizer, beginning: str) -> None:
        self.tokenizer = tokenizer
        self._beginning = beginning

    def prompt_ids(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Token ids of the only message's text, behind the special tokens that begin a text."""
        if len(messages) != 1 or tools:
            raise UserInputError(
                "without a chat template the model continues one text: it knows no system text,"
                " earlier messages or tools; leave them out, or use an instruct model."
            )
        begin = self.tokenizer.encode_markup(self._beginning)
        return begin + self.tokenizer.encode(str(messages[0]["content"]))

    def answer_stream(self) -> AnswerStream:
        """A decoder that keeps every blank, since the answer continues a text."""
        return TextStream(self.tokenizer, continues=True)


class _WithoutFirstBlanks:
    """An answer's text without the blanks and line ends before it."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._began = False

    def push(self, token: int) -> str:
        return self._trimmed(self._stream.push(token))

    def finish(self) -> str:
        return self._trimmed(self._stream.finish())

    def _trimmed(self, text: str) -> str:
        if not self._began:
            text = text.lstrip()
            self._began = bool(text)
        return text


def holds_conversations(bundle: Bundle) -> bool:
    """Whether the model was trained on messages, or only continues a text."""
    tokenizer = bundle.manifest.tokenizer
    return tokenizer.kind == "sentencepiece" or tokenizer.chat_template is not None


def chat_format_of(bundle: Bundle, *, raw: bool = False) -> ChatFormat:
    """The format of a bundle's model; with ``raw`` a chat template is left aside.

    ChatGLM-6B has no template: its first question is the text itself. Raises CheckpointError for a
    damaged tokenizer, BundleError for a template that is no text.
    """
    manifest = bundle.manifest
    if bundle.layout == "article":
        return ChatGlmFormat(LongestMatchTokenizer.of_bundle(bundle))
    if manifest.tokenizer.kind == "sentencepiece":
        return ChatGlmFormat(Tokenizer.of_bundle(bundle))
    tokenizer = JsonTokenizer.of_bundle(bundle)
    described = manifest.tokenizer
    if described.chat_template is None or raw:
        return CompletionFormat(tokenizer, described.bos or "" if described.add_bos else "")
    path = bundle.file(described.chat_template)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEMPLATE_BYTES + 1)
        source = content.decode()
    except (OSError, UnicodeDecodeError):
        raise BundleError(f"{path} cannot be read as text; export the bundle again.") from None
    if len(content) > MAX_TEMPLATE_BYTES:
        raise BundleError(
            f"{path} is over {MAX_TEMPLATE_BYTES >> 10} KiB; export the bundle again."
        )
    named = {"bos_token": described.bos, "eos_token": described.eos}
    special_texts = {name: text for name, text in named.items() if text is not None}
    return TemplateFormat(tokenizer, ChatTemplate(source), special_texts)
