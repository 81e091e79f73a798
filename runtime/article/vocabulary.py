"""`slim_vocab.txt`: one token per line, and the line's number (from 0) is the token's id."""

from __future__ import annotations

from pathlib import Path

from runtime.manifest import SpecialTokens
from scheduler.errors import BundleError

VOCABULARY_NAME = "slim_vocab.txt"
_LARGEST_BYTES = 32 << 20  # ChatGLM-6B's has about 1.3 MB
_AGAIN = "copy the file again from the export"


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Every token of the file, by id.

    Raises BundleError for a file that is missing, not UTF-8, has an empty line, or holds a token
    twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:
            raise BundleError(f"{path} is over {_LARGEST_BYTES >> 20} MiB; {_AGAIN}.")
        text = content.decode("utf-8")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror or error}); {_AGAIN}."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BundleError(f"{path} is not UTF-8 in line {line}; {_AGAIN}.") from error
    # Not splitlines(): it would also cut at characters such as U+2028, which are tokens.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    seen: dict[str, int] = {}
    for number, token in enumerate(lines, 1):
        if not token:
            raise BundleError(f"{path} has no token in line {number}; {_AGAIN}.")
        first = seen.setdefault(token, number)
        if first != number:
            raise BundleError(
                f"{path} has the token {token!r} in lines {first} and {number}, so that it would"
                f" have two ids; {_AGAIN}."
            )
    return tuple(lines)


def special_tokens(path: Path, tokens: tuple[str, ...]) -> SpecialTokens:
    """Ids of the special tokens, found by name in the tokens of the file `path`.

    Raises BundleError when [gMASK], <sop> or <eop> is not there. Prompts never hold [MASK] and
    <pad>, so where they are missing another special token stands in for them.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    for name in ("[gMASK]", "<sop>", "<eop>"):
        if name not in ids:
            raise BundleError(
                f"{path} has no token {name} among its {len(tokens)}, which every prompt or answer"
                f" of ChatGLM-6B needs; {_AGAIN}."
            )
    return SpecialTokens(
        mask=ids.get("[MASK]", ids["[gMASK]"]),
        gmask=ids["[gMASK]"],
        bos=ids["<sop>"],
        eos=ids["<eop>"],
        pad=ids.get("<pad>", ids["<eop>"]),
    )
