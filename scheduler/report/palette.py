"""Colours of charts: Okabe and Ito's, which people with any colour vision can tell apart.

Masataka Okabe and Kei Ito, Color Universal Design, 2008. Yellow and black are left out: one is too
light on paper, the other is the ink. On the page colours are names that its style sheet fills in,
for light and for dark; slides are always light.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.cell import Verdict


@dataclass(frozen=True)
class Palette:
    """Colours as CSS takes them."""

    ink: str
    muted: str
    line: str
    paper: str | None
    blue: str
    vermillion: str
    green: str
    purple: str
    orange: str
    sky: str

    @property
    def series(self) -> tuple[str, ...]:
        """For lines, most distinct first."""
        return (self.blue, self.vermillion, self.green, self.purple, self.orange, self.sky)

    def device(self, name: str) -> str:
        """Blue, green, ... for GPUs in order, orange for the CPU."""
        if name == "cpu":
            return self.orange
        gpus = (self.blue, self.green, self.purple, self.sky, self.vermillion)
        return gpus[int(name.removeprefix("gpu")) % len(gpus)]

    def verdict(self, verdict: Verdict) -> str:
        """From green to vermillion; shapes and words say the same."""
        return {
            "resident": self.green,
            "hybrid": self.blue,
            "cpu_only": self.orange,
            "would_swap": self.purple,
            "does_not_fit": self.vermillion,
        }[verdict]


PAGE = Palette(
    ink="var(--ink)",
    muted="var(--muted)",
    line="var(--line)",
    paper=None,
    blue="var(--blue)",
    vermillion="var(--vermillion)",
    green="var(--green)",
    purple="var(--purple)",
    orange="var(--orange)",
    sky="var(--sky)",
)
SLIDE = Palette(
    ink="#16202c",
    muted="#55606e",
    line="#d9dfe6",
    paper="#ffffff",
    blue="#0072b2",
    vermillion="#d55e00",
    green="#009e73",
    purple="#cc79a7",
    orange="#e69f00",
    sky="#56b4e9",
)
