"""What a checkpoint says about its special tokens and chat template, beside the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.chat_template import MAX_TEMPLATE_BYTES
from scheduler.errors import CheckpointError
from scheduler.strict_json import read_strict_json

_MAX_SETTINGS_BYTES = 8 << 20  # GLM and Llama list every added token there
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class TokenizerSettings:
    """`tokenizer_config.json` and the small files beside it, as far as they concern a bundle.

    ``added`` maps token ids to (text, whether it is special); ``add_bos`` is None where no file
    says it.
    """

    class_name: str
    bos: str | None
    eos: str | None
    add_bos: bool | None
    legacy: bool
    added: dict[int, tuple[str, bool]]
    chat_template: str | None

    @classmethod
    def of_checkpoint(cls, folder: Path) -> TokenizerSettings:
        """Read them from a checkpoint directory; every file may be missing.

        Raises CheckpointError for files that are damaged or far too large.
        """
        settings, mapped = (_read(folder / name) for name in SETTINGS_FILES)
        named = mapped | settings
        add_bos = settings.get("add_bos_token")
        return cls(
            class_name=str(settings.get("tokenizer_class") or ""),
            bos=_text(named.get("bos_token")),
            eos=_text(named.get("eos_token")),
            add_bos=add_bos if isinstance(add_bos, bool) else None,
            legacy=settings.get("legacy") is not False,
            added=_added(folder, settings.get("added_tokens_decoder")),
            chat_template=_chat_template(folder, settings.get("chat_template")),
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return read_strict_json(path, _MAX_SETTINGS_BYTES)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}; download the checkpoint again.") from None


def _text(token: Any) -> str | None:
    """A special token's text, which is written alone or as an object with flags."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _added(folder: Path, tokens: Any) -> dict[int, tuple[str, bool]]:
    if not isinstance(tokens, dict):
        return {}
    added = {}
    for number, token in tokens.items():
        text = _text(token)
        if not str(number).isdecimal() or text is None or len(number) > 9:
            raise CheckpointError(
                f"{folder / 'tokenizer_config.json'} has an added token {str(number)[:40]!r}"
                " without number or text; download the checkpoint again."
            )
        added[int(number)] = text, isinstance(token, dict) and token.get("special") is True
    return added


def _chat_template(folder: Path, in_settings: Any) -> str | None:
    """The file chat_template.jinja, else chat_template.json, else the one in the settings."""
    jinja, wrapped = (folder / name for name in TEMPLATE_FILES)
    found = in_settings
    if jinja.exists():
        with jinja.open("rb") as file:
            found = file.read(MAX_TEMPLATE_BYTES + 1).decode("utf-8", "replace")
    elif wrapped.exists():
        found = _read(wrapped).get("chat_template")
    if isinstance(found, list):  # several by name
        by_name = {
            one["name"]: one.get("template")
            for one in found
            if isinstance(one, dict) and isinstance(one.get("name"), str)
        }
        found = by_name.get("default")
    if found is None or found == "":
        return None
    if not isinstance(found, str) or len(found.encode()) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(
            f"the chat template in {folder} is no text of at most {MAX_TEMPLATE_BYTES >> 10} KiB;"
            " download the checkpoint again."
        )
    return found
