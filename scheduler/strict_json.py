"""Read JSON that others wrote: bounded in size, no duplicate keys, NaN, infinity or broken text."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.wording import shorten

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST_PLACE = 100
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_strict_json(path: Path, limit_bytes: int) -> dict[str, Any]:
    """Parse the JSON object in ``path``.

    Raises ValueError whose text continues a sentence that starts with the path: "does not exist",
    "is empty", "is larger than ...", "is not JSON: ...", "repeats the key ...".
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from error
    if not raw:
        raise ValueError("is empty")
    if len(raw) > limit_bytes:
        raise ValueError(f"is larger than {limit_bytes} bytes")
    return parse_strict_json(raw)


def parse_strict_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in a file's content; raises as `read_strict_json`."""
    try:
        document = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except _RefusedError as error:
        raise ValueError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({str(error).splitlines()[0]})") from error
    if _SURROGATE.search(raw):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no text") from None
    if not isinstance(document, dict):
        raise ValueError(f"holds a JSON {type(document).__name__}, not an object")
    return document


def validation_sentence(error: ValidationError) -> str:
    """The first problem that pydantic found, as ``parts.3.name: Field required (and 2 more)``."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(str(step) for step in problems[0]["loc"])[:_LONGEST_PLACE] or "document"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {problems[0]['msg']}{more}"


class _RefusedError(ValueError):
    pass


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = Counter(keys).most_common(1)[0][0]
        raise _RefusedError(f"repeats the key {shorten(repeated)}")
    return document


def _refuse_constant(text: str) -> None:
    raise _RefusedError(f"holds {text}, which is not JSON")
