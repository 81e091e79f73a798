"""Find a device by the name a person types or a driver reports: one sure match, or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from scheduler.errors import UserInputError
from scheduler.wording import listing, near_matches, shorten

_TRADEMARKS = re.compile(r"\((?:r|tm)\)|®|™", re.IGNORECASE)
_ATOM = re.compile(r"[a-z]+|[0-9]+")
_FILLERS = {"amd", "apple", "intel", "nvidia", "geforce", "radeon", "tesla", "instinct", "core"}
_FILLERS |= {"cpu", "gpu", "graphics", "processor", "generation"}


def matching_names(text: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """List the names that `text` can mean; several only where it is ambiguous.

    `names` maps each name to its aliases. Vendor words, case, blanks and punctuation do not count.
    A name or alias that is equal wins; then one that is equal but for its memory size ("RTX 3080"
    for "RTX 3080 12 GB"); then those that contain every word of the text ("2080 ti").
    """
    words = _words(text)
    wanted = [atom for word in words for atom in word]
    if not wanted:
        return []
    spellings = {
        name: [_atoms(spelling) for spelling in (name, *aliases)] for name, aliases in names.items()
    }
    for matches in (
        lambda atoms: atoms == wanted,
        lambda atoms: _without_memory(atoms) == wanted,
        lambda atoms: all(_contains(atoms, word) for word in words),
    ):
        found = [name for name, forms in spellings.items() if any(map(matches, forms))]
        if found:
            return found
    return []


def find_name(
    text: str, names: Mapping[str, Sequence[str]], kind: str, otherwise: str | None = None
) -> str:
    """Return the one name that `text` means.

    Raises UserInputError listing the candidates of an ambiguous text, or near matches of an unknown
    one (`otherwise` where there are none); `kind` is what the sentence calls it, such as "GPU".
    """
    found = matching_names(text, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserInputError(
            f"{kind} {shorten(text)} could be {listing(found, 'or')}; use the full name."
        )
    hint = near_matches(text, list(names), otherwise)
    raise UserInputError(f"{kind} {shorten(text)} is unknown; {hint}")


def _words(text: str) -> list[list[str]]:
    """Split into words and these into runs of letters and of digits, without vendor words."""
    plain = _TRADEMARKS.sub(" ", text.casefold())
    split = [_ATOM.findall(word) for word in re.split(r"[^a-z0-9]+", plain)]
    kept = [[atom for atom in word if atom not in _FILLERS] for word in split]
    return [word for word in kept if word]


def _atoms(text: str) -> list[str]:
    return [atom for word in _words(text) for atom in word]


def _without_memory(atoms: list[str]) -> list[str]:
    return atoms[:-2] if len(atoms) > 2 and atoms[-1] == "gb" and atoms[-2].isdigit() else atoms


def _contains(atoms: list[str], run: list[str]) -> bool:
    return any(atoms[at : at + len(run)] == run for at in range(len(atoms) - len(run) + 1))
