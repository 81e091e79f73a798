"""What a server is told at its start: where it listens, who may ask, and how much at once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scheduler.errors import UserInputError

BackOffPolicy = Literal["slots", "blocks", "off"]
_LONGEST_KEY_FILE_BYTES = 1 << 20
_SHORTEST_KEY = 8


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and addresses of one server; bytes and seconds.

    ``api_keys`` empty: anybody who reaches the port may ask. ``queue`` is how many answers may wait
    for a slot, ``back_off`` what is given up while memory is short. Raises UserInputError for an
    address that others reach while no key protects it, unless ``insecure``.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    insecure: bool = False
    queue: int = 64
    request_seconds: float = 600.0
    drain_seconds: float = 30.0
    keep_alive_seconds: float = 10.0
    max_body_bytes: int = 4 << 20
    max_messages: int = 1024
    cors_origins: tuple[str, ...] = ()
    back_off: BackOffPolicy = "slots"

    def __post_init__(self) -> None:
        if not self.on_loopback and not self.api_keys and not self.insecure:
            raise UserInputError(
                f"--host {self.host} can be reached from other machines and no key protects it; add"
                " --api-key or --api-key-file, or say --insecure if that is meant."
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_api_keys(given: tuple[str, ...], key_file: Path | None) -> tuple[str, ...]:
    """Keys from flags and from a file with one a line; empty lines and ``#`` lines do not count.

    Raises UserInputError for a file that cannot be read or holds no key, and for a key that is
    shorter than 8 characters or not printable ASCII.
    """
    keys = list(given)
    if key_file is not None:
        try:
            with key_file.open("rb") as stream:
                content = stream.read(_LONGEST_KEY_FILE_BYTES + 1)
            text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UserInputError(f"--api-key-file {key_file} cannot be read: {reason}.") from None
        if len(content) > _LONGEST_KEY_FILE_BYTES:
            raise UserInputError(f"--api-key-file {key_file} is over 1 MiB; expected keys alone.")
        lines = [line.strip() for line in text.splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UserInputError(
                f"--api-key-file {key_file} holds no key; expected one on each line."
            )
        keys += found
    for key in keys:
        if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise UserInputError(
                f"an API key has {len(key)} characters or is not printable ASCII; expected at least"
                f" {_SHORTEST_KEY} characters without blanks."
            )
    return tuple(dict.fromkeys(keys))
