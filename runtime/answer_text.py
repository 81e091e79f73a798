"""The last touch that ChatGLM's release gives an answer, for finished and for streamed text."""

from __future__ import annotations

import re

TRAINING_DATE = "[[训练时间]]"
_DATE = "2023年"
_MARKS = ",!:;?"
_FULL_WIDTH = str.maketrans(_MARKS, "，！：；？")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_BESIDE_CHINESE = re.compile(rf"(?<={_CHINESE.pattern})[{_MARKS}]|[{_MARKS}](?={_CHINESE.pattern})")


def postprocess(text: str) -> str:
    """Text without outer blanks, with full-width marks beside Chinese and the training date set."""
    return _widen_marks(text.strip().replace(TRAINING_DATE, _DATE))


class PostprocessStream:
    """`postprocess` for text that arrives in pieces, holding back only what may still change.

    The texts returned by `push` and `finish` together are `postprocess` of all texts pushed.
    """

    def __init__(self) -> None:
        self._held = ""
        self._last = ""  # the last character returned: a mark after Chinese widens

    def push(self, text: str) -> str:
        """Add text; return what has become certain, possibly nothing."""
        self._held = (self._held + text).replace(TRAINING_DATE, _DATE)
        if not self._last:
            self._held = self._held.lstrip()
        return self._release(_certain_length(self._held, self._last))

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        self._held = self._held.rstrip()
        return self._release(len(self._held))

    def _release(self, length: int) -> str:
        before = self._last
        text = _widen_marks(before + self._held[:length])[len(before) :]
        self._held = self._held[length:]
        self._last = text[-1:] or before
        return text


def _widen_marks(text: str) -> str:
    return _BESIDE_CHINESE.sub(lambda mark: mark.group().translate(_FULL_WIDTH), text)


def _certain_length(held: str, last: str) -> int:
    """How much of `held`, which follows the character `last`, no later text can change."""
    for length in range(len(TRAINING_DATE) - 1, 0, -1):
        if held.endswith(TRAINING_DATE[:length]):
            return len(held) - length
    if held.endswith(tuple(_MARKS)) and not _CHINESE.fullmatch((last + held)[-2:-1]):
        return len(held) - 1
    return len(held.rstrip())
