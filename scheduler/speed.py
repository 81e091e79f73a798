"""Speed: the prediction that a plan carries, with the origin of every constant in it."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.cost import Speeds, decode_seconds, prefill_seconds
from scheduler.model import ModelSpec
from scheduler.plan import PlanSpeed, Provenance, Stage, StageSpeed

DEFAULT_PROMPT = 512
"""Tokens of the prompt that prefill is stated for, where the context holds as many."""

_FROM_LEAST_CERTAIN: tuple[Provenance, ...] = ("estimated", "calibrated", "measured")


def predict_speed(
    stages: Sequence[Stage], spec: ModelSpec, speeds: Speeds, context: int, slots: int
) -> PlanSpeed:
    """Predict decode at a full context and a prompt of 512 tokens, or of the whole context if less.

    Raises KeyError for a stage on a device that `speeds` does not know.
    """
    prompt = min(DEFAULT_PROMPT, context)
    decode = decode_seconds(stages, spec, speeds, context, slots)
    prefill = prefill_seconds(stages, spec, speeds, prompt)
    constants = [speeds.of(stage.device, stage.backend) for stage in stages]
    return PlanSpeed(
        context_tokens=context,
        slots=slots,
        decode_tokens_per_second=decode.tokens_per_second,
        decode_tokens_per_second_per_slot=decode.tokens_per_second_per_slot,
        prompt_tokens=prompt,
        prefill_tokens_per_second=prompt / prefill.total_seconds,
        time_to_first_token_seconds=prefill.total_seconds,
        step_seconds=decode.total_seconds,
        lm_head_seconds=decode.lm_head_seconds,
        hop_seconds=decode.hop_seconds,
        slowest_stage_seconds=decode.slowest_stage_seconds,
        stages=[
            StageSpeed(
                device=stage.device,
                decode_seconds=decode.stage_seconds[number],
                prefill_seconds=prefill.stage_seconds[number],
                provenance=constants[number].provenance,
                source=constants[number].source,
            )
            for number, stage in enumerate(stages)
        ],
        provenance=min((c.provenance for c in constants), key=_FROM_LEAST_CERTAIN.index),
    )
