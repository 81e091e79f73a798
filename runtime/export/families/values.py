"""Numbers out of a config.json that others wrote, each one checked where it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.errors import CheckpointError
from scheduler.wording import show_value


def refusal(where: str, key: str, value: object, expected: str) -> CheckpointError:
    """The sentence for a ``value`` of ``key`` in the file ``where`` that cannot be exported."""
    return CheckpointError(
        f"{where}: {key} is {show_value(value)}, which cannot be exported; expected {expected}."
    )


def number(
    config: Mapping[str, Any],
    key: str,
    where: str,
    default: float | None = None,
    *,
    above: float,
    below: float = 1e12,
) -> float:
    """A number between the bounds; without a ``default`` it must be there."""
    value: object = config.get(key)
    if value is None:
        value = default
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and above < value < below  # false for NaN
    ):
        return float(value)
    raise refusal(where, key, value, f"a number above {above:g} and below {below:g}")


def fraction(config: Mapping[str, Any], key: str, where: str, default: float) -> float:
    """A number above 0 and up to 1."""
    value = number(config, key, where, default, above=0)
    if value > 1:
        raise refusal(where, key, value, "a number above 0 and up to 1")
    return value


def whole(
    config: Mapping[str, Any], key: str, where: str, default: int | None = None, least: int = 1
) -> int:
    """A whole number; without a ``default`` it must be there."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 30:
        raise refusal(where, key, value, f"a whole number of at least {least}")
    return value
