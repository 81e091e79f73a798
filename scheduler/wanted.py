"""What a user says about the machine to plan for: names and amounts, read but not looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.errors import UserInputError
from scheduler.units import parse_size


@dataclass(frozen=True)
class Wanted:
    """What the user named; None or empty where nothing was.

    `vram_bytes` is the free memory of each GPU, in order. `ram_bytes` is installed RAM, `ram_class`
    the name of a memory class.
    """

    gpus: tuple[str, ...] = ()
    vram_bytes: tuple[int, ...] | None = None
    cpu: str | None = None
    ram_bytes: int | None = None
    ram_class: str | None = None

    @property
    def nothing(self) -> bool:
        """Whether no device is named; stated memory alone does not name one."""
        return not (self.gpus or self.cpu or self.ram_bytes is not None or self.ram_class)


def read_ram(texts: Sequence[str]) -> tuple[int | None, str | None]:
    """Tell amounts (``32``, ``32GiB``) from memory classes (``dual DDR4-3200``) among --ram.

    Raises UserInputError for two amounts, two classes, or an amount that is none.
    """
    amounts = [text for text in texts if _is_amount(text)]
    classes = [text for text in texts if not _is_amount(text)]
    for several, what in ((amounts, "amounts"), (classes, "memory classes")):
        if len(several) > 1:
            raise UserInputError(
                f"--ram names two {what}, {several[0]} and {several[1]}; give one of them."
            )
    amount = parse_size(amounts[0], "--ram") if amounts else None
    return amount, classes[0] if classes else None


def _is_amount(text: str) -> bool:
    """A number with or without a unit, even a wrong one: no memory class looks like that."""
    try:
        parse_size(text)
    except UserInputError:
        try:
            float(text)
        except ValueError:
            return not text.strip()
    return True
