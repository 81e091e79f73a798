"""Regular expressions that may come from anybody: refuse those whose search time can explode."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_PATTERN = 4096  # characters; published ones have up to about 1,200
_WIDE = 16  # a repeat of a group that may take this many more turns counts as endless
_COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")


@dataclass
class _Group:
    branches: bool = False  # holds an alternative or a repeat, so one text may match in many ways


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a pattern, as the end of a sentence; None when it may be used.

    A backtracking search takes exponential time where a group that can match one text in several
    ways is itself repeated, as in `(a+)+` or `(a|a)*`, and where a pattern refers to itself. The
    pre-tokenizers of published models do neither. What is left is polynomial in the text.
    """
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern)} characters, at most {MAX_PATTERN} are allowed"
    open_groups, closed, at = [_Group()], None, 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            if pattern[at + 1 : at + 2] in tuple("123456789gk"):
                return f"refers back to a group at character {at + 1}"
            at, closed = at + 2, None
            continue
        if letter == "[":
            at, closed = _after_class(pattern, at), None
            continue
        wide, varies, length = _repeat(pattern, at)
        if length:
            if closed is not None and closed.branches and wide:
                return f"repeats a group that holds alternatives or repeats, at character {at + 1}"
            open_groups[-1].branches |= varies
            at += length
            continue
        closed = None
        if letter == "(":
            open_groups.append(_Group())
            at += 2 if pattern.startswith("(?", at) else 1
            continue
        if letter == ")":
            closed = open_groups.pop()
            if not open_groups:
                return f"closes a group that was never opened, at character {at + 1}"
            open_groups[-1].branches |= closed.branches
        elif letter == "|":
            open_groups[-1].branches = True
        at += 1
    return None if len(open_groups) == 1 else "leaves a group open"


def _repeat(pattern: str, at: int) -> tuple[bool, bool, int]:
    """Whether a repeat begins here that may take many turns, or a varying number, and its length.

    Length 0: there is none.
    """
    if pattern[at] in "*+?":
        return pattern[at] != "?", True, 1
    counted = _COUNTED.match(pattern, at)
    if counted is None:
        return False, False, 0
    low, comma, high = counted.groups()
    least = int(low or 0)
    most = MAX_PATTERN if comma and not high else int(high or least)
    return most - least >= _WIDE or most >= MAX_PATTERN, most > least, len(counted.group())


def _after_class(pattern: str, at: int) -> int:
    """The position after a character class, which may hold others."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    return at
