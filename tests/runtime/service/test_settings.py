"""Addresses and keys: what is refused before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.service.settings import ServiceSettings, read_api_keys
from scheduler.errors import UserInputError


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(UserInputError, match="no key protects it"):
        ServiceSettings(host=host)
    ServiceSettings(host=host, api_keys=("a-long-key",))
    ServiceSettings(host=host, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert ServiceSettings(host=host).on_loopback


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key-1\n\nsecond-key-2\n", encoding="utf-8")
    assert read_api_keys(("first-key-1",), file) == ("first-key-1", "second-key-2")


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "blank inside\n", "ключключ\n"])
def test_bad_key_files_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserInputError, match="expected"):
        read_api_keys((), file)
    with pytest.raises(UserInputError, match="cannot be read"):
        read_api_keys((), tmp_path / "none")
