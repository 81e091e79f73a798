"""Numbers and verdicts of a report in the words that all its formats share."""

from __future__ import annotations

from scheduler.cell import VERDICTS, Cell, Limit, Verdict
from scheduler.inverse import Buy
from scheduler.report.document import Point, Setting
from scheduler.units import format_size

VERDICT_WORDS: dict[Verdict, str] = {
    "resident": "resident",
    "hybrid": "hybrid",
    "cpu_only": "CPU only",
    "would_swap": "would swap",
    "does_not_fit": "does not fit",
}
VERDICT_MARKS: dict[Verdict, str] = {
    "resident": "●",
    "hybrid": "◐",
    "cpu_only": "○",
    "would_swap": "▲",
    "does_not_fit": "✕",
}
"""Shapes beside the colours, so that nothing is told by colour alone."""

MEANINGS = VERDICTS


def short_name(name: str) -> str:
    """A card's name without its maker's family: ``RTX 2080 Ti``."""
    for family in ("NVIDIA ", "GeForce ", "AMD ", "Radeon ", "Intel "):
        name = name.replace(family, "")
    return name


def precision_text(gpu: str, cpu: str) -> str:
    """``int4`` where both sides are alike, else GPU before CPU: ``fp16 / fp32``."""
    return gpu if gpu == cpu else f"{gpu} / {cpu}"


def setting_text(setting: Setting) -> str:
    """``RTX 2080 Ti, fp16 / fp32``."""
    precision = precision_text(setting.gpu_precision, setting.cpu_precision)
    return f"{short_name(setting.machine)}, {precision}"


def rate_text(tokens_per_second: float | None) -> str:
    """Three digits and no more: ``3.42``, ``128``; a dash where nothing runs."""
    if tokens_per_second is None:
        return "–"
    return f"{tokens_per_second:.3g}" if tokens_per_second < 100 else f"{tokens_per_second:,.0f}"


def seconds_text(seconds: float | None) -> str:
    """``290 ms``, ``1.94 s``, ``3 min 20 s``; a dash where nothing runs."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s"


def sizes_text(sizes: tuple[int, ...]) -> str:
    """Amounts of several GPUs: ``8.90 GiB + 4.10 GiB``."""
    return " + ".join(format_size(size) for size in sizes) or "–"


def blocks_text(cell: Cell) -> str:
    """``23 of 28``, or per GPU ``10 + 7 of 28``."""
    return f"{' + '.join(map(str, cell.blocks_by_gpu)) or 0} of {cell.blocks}"


def count_text(parameters: int) -> str:
    """``6.17 billion`` or ``135 million``."""
    if parameters >= 10**9:
        return f"{parameters / 1e9:.3g} billion"
    return f"{parameters / 1e6:.3g} million"


def slots_text(count: int) -> str:
    """``1 slot`` or ``4 slots``."""
    return f"{count:,} {'slot' if count == 1 else 'slots'}"


def where_text(where: str) -> str:
    """A device as a sentence calls it."""
    return "RAM" if where == "ram" else where


def limit_text(limit: Limit) -> str:
    """The binding constraint with its numbers, as a sentence without its full stop."""
    where, short = where_text(limit.where), limit.needed - limit.available
    if limit.kind == "context":
        return f"the model takes at most {limit.available:,} tokens"
    needed, available = format_size(limit.needed), format_size(limit.available)
    if limit.kind == "short":
        return f"{where} lacks {format_size(short)}: {needed} needed, {available} available"
    if limit.kind == "next_block":
        return f"{where} lacks {format_size(short)} for one more block"
    if limit.kind == "speed":
        return "more blocks would fit on a GPU, but it would be slower"
    return f"{where} is the fullest, with {format_size(-short)} to spare"


def point_text(label: str, x: str, point: Point) -> str:
    """What a chart's point says when it is hovered over, focused or read aloud."""
    if point.tokens_per_second is None:
        return f"{label}, {x}: {VERDICT_WORDS[point.verdict]}"
    return (
        f"{label}, {x}: {rate_text(point.tokens_per_second)} tok/s, {point.gpu_blocks} blocks on"
        f" the GPU, {VERDICT_WORDS[point.verdict]}"
    )


def most_text(count: int, capped: bool, unit: str) -> str:
    """``1,536 tokens``, with a word where the model or program is the limit, not memory."""
    if count == 0:
        return "none fits"
    return f"{count:,} {unit if count > 1 else unit[:-1]}{' (the most)' if capped else ''}"


def gain_text(now: Cell, then: Cell) -> str:
    """What a bigger card changes: ``+5 blocks, 3.42 → 5.81 tok/s``."""
    blocks = then.gpu_blocks - now.gpu_blocks
    if not then.fits:
        return VERDICT_WORDS[then.verdict]
    old, new = now.tokens_per_second, then.tokens_per_second
    if old is None:
        return f"fits: {rate_text(new)} tok/s"
    speed = f"{rate_text(old)} → {rate_text(new)} tok/s"
    if blocks == 0 and rate_text(old) == rate_text(new):
        return "nothing"
    if blocks == 0:
        return speed
    return f"{blocks:+d} {'block' if abs(blocks) == 1 else 'blocks'}, {speed}"


def cheapest_text(buy: Buy | None, alone: Cell, target: float) -> str:
    """The cheapest listed card that reaches the target, with its price, if it takes one.

    `alone` is the same without any GPU.
    """
    without = alone.tokens_per_second_per_slot
    if without is not None and without >= target:
        return f"none: the CPU alone makes {rate_text(without)} tok/s"
    if buy is None:
        return f"no listed card reaches {target:g} tok/s"
    rate = rate_text(buy.cell.tokens_per_second_per_slot)
    return f"{short_name(buy.gpu)}, ${buy.price_usd:,} at launch: {rate} tok/s"
