"""The measured times of an answer, as lines, a table and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.engine import Generation
from runtime.launch import StageLaunch
from scheduler.units import format_size

if TYPE_CHECKING:
    from rich.table import Table


def timing_json(launches: list[StageLaunch], generation: Generation) -> dict[str, Any]:
    """Measured times of one answer; seconds, and per decoded token where it says so."""
    decoded = generation.decode
    per_token = 1 / len(decoded) if decoded else None
    return {
        "provenance": "measured",
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": len(generation.token_ids),
        "time_to_first_token_seconds": generation.first_token_seconds,
        "total_seconds": generation.total_seconds,
        "decode_tokens_per_second": generation.decode_tokens_per_second,
        "stages": [
            {
                "device": launch.device,
                "asked_backend": launch.asked_backend,
                "backend": launch.backend,
                "fallback": launch.fallback,
                "remedy": launch.remedy,
                "blocks": launch.block_span,
                "prefill_seconds": generation.prefill and generation.prefill.stage_seconds[number],
                "decode_seconds_per_token": per_token
                and per_token * sum(step.stage_seconds[number] for step in decoded),
            }
            for number, launch in enumerate(launches)
        ],
        "lm_head_seconds_per_token": per_token
        and per_token * sum(step.lm_head_seconds for step in decoded),
        "hop_seconds_per_token": per_token
        and per_token * sum(step.hop_seconds for step in decoded),
    }


def summary_line(generation: Generation) -> str:
    """One line under an answer: tokens, time to first token, tokens per second (all measured)."""
    line = (
        f"{len(generation.token_ids)} tokens,"
        f" first after {generation.first_token_seconds * 1000:.0f} ms"
    )
    speed = generation.decode_tokens_per_second
    return line + (f", {speed:.1f} tok/s (measured)" if speed else " (measured)")


def timing_table(
    launches: list[StageLaunch], rss_bytes: list[int], generations: list[Generation]
) -> Table:
    """Where the time of these answers went: a row per stage, lm_head, hops and the sum."""
    from rich.table import Table

    steps = [step for generation in generations for step in generation.decode]
    prefills = [generation.prefill for generation in generations if generation.prefill]
    tokens = sum(generation.prompt_tokens for generation in generations)
    table = Table(title="Where the time went (measured)", title_justify="left")
    table.add_column("part")
    for name in ("blocks", "prefill ms", "decode ms/token", "process RSS"):
        table.add_column(name, justify="right")

    def row(part: str, blocks: str, prefill: float, decode: float, rss: str = "") -> None:
        per_token = f"{1000 * decode / len(steps):.2f}" if steps else "-"
        table.add_row(part, blocks, f"{1000 * prefill:.1f}", per_token, rss)

    for number, launch in enumerate(launches):
        row(
            f"{launch.device} ({launch.fallback or launch.backend})",
            launch.block_span,
            sum(step.stage_seconds[number] for step in prefills),
            sum(step.stage_seconds[number] for step in steps),
            format_size(rss_bytes[number]),
        )
    row(
        "lm_head",
        "",
        sum(step.lm_head_seconds for step in prefills),
        sum(step.lm_head_seconds for step in steps),
    )
    row(
        "hops",
        "",
        sum(step.hop_seconds for step in prefills),
        sum(step.hop_seconds for step in steps),
    )
    total_prefill = sum(step.total_seconds for step in prefills)
    total_decode = sum(step.total_seconds for step in steps)
    table.add_section()
    row("all", "", total_prefill, total_decode)
    speeds = f"prefill {tokens / total_prefill:.0f} tok/s" if total_prefill else ""
    if total_decode:
        speeds += f", decode {len(steps) / total_decode:.1f} tok/s"
    table.caption = speeds
    table.caption_justify = "left"
    return table
