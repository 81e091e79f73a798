"""Put what a user or a file gave into one short sentence, however long or hostile it is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LONGEST_TEXT = 60
_LONGEST_LIST = 16


def shorten(text: str) -> str:
    """Quote a text in at most 60 characters."""
    return repr(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...")


def show_value(value: object) -> str:
    """Name a value from JSON or TOML in few characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):  # Python refuses to print integers of more than 4,300 digits
        return str(value) if value.bit_length() <= 64 else "a number beyond 64 bits"
    if isinstance(value, float):
        return str(value)
    return shorten(value) if isinstance(value, str) else f"a {type(value).__name__}"


def listing(names: Sequence[str], word: str) -> str:
    """Join names with commas and a last `word` such as "or"; no more than 16 of them."""
    if len(names) > _LONGEST_LIST:
        return ", ".join(names[:_LONGEST_LIST]) + f" {word} {len(names) - _LONGEST_LIST} more"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" {word} {names[-1]}"


def near_matches(text: str, names: Sequence[str], otherwise: str | None = None) -> str:
    """End a sentence about an unknown name: the nearest known ones, or which there are.

    `otherwise` replaces the latter where a list would be of no use.
    """
    by_key = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(text[:_LONGEST_TEXT].casefold(), by_key, n=3)
    if near:
        return f"did you mean {listing([by_key[key] for key in near], 'or')}?"
    return otherwise or f"known are {listing(sorted(names), 'and')}."
