"""The predicted speed of a plan as sentences: tokens per second, where a token's time goes, why."""

from __future__ import annotations

from scheduler.plan import PlanSpeed


def speed_lines(speed: PlanSpeed) -> list[tuple[str, str]]:
    """Labelled sentences: decode and prefill, seconds per stage, and the constants' origin."""
    slots = ""
    if speed.slots > 1:
        slots = f" ({speed.decode_tokens_per_second_per_slot:.3g} for each of {speed.slots} slots)"
    return [
        (
            "speed",
            f"{tokens_per_second(speed.decode_tokens_per_second)} decode with"
            f" {speed.context_tokens} tokens of context{slots} ({speed.provenance})",
        ),
        (
            "prompt",
            f"{tokens_per_second(speed.prefill_tokens_per_second)} prefill: first token"
            f" {seconds(speed.time_to_first_token_seconds)} after a prompt of"
            f" {speed.prompt_tokens} tokens ({speed.provenance})",
        ),
        ("a step", step_text(speed)),
        *(
            ("from", f"{stage.device}: {stage.source} ({stage.provenance})")
            for stage in speed.stages
        ),
    ]


def step_text(speed: PlanSpeed) -> str:
    """Where the time of one decode step goes: ``gpu0 76 ms, cpu 139 ms, lm_head 73 ms, ...``."""
    parts = [(stage.device, stage.decode_seconds) for stage in speed.stages]
    parts += [("lm_head", speed.lm_head_seconds), ("hops", speed.hop_seconds)]
    told = ", ".join(f"{name} {seconds(spent)}" for name, spent in parts if spent)
    return f"{seconds(speed.step_seconds)}: {told}"


def tokens_per_second(rate: float) -> str:
    """Print a rate with three digits: ``3.43 tok/s``."""
    return f"{rate:.3g} tok/s" if rate < 1000 else f"{rate:,.0f} tok/s"


def seconds(amount: float) -> str:
    """Print a time in the unit that suits it: ``0.4 ms``, ``291 ms``, ``11.7 s``."""
    if amount < 1:
        return f"{1000 * amount:.3g} ms"
    return f"{amount:.3g} s" if amount < 1000 else f"{amount:,.0f} s"
