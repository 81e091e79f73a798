"""Sampling, refused by name where the model's last graph returns ids instead of logits."""

from __future__ import annotations

from runtime.article.folder import LM_NAME
from runtime.bundle import Bundle
from runtime.sampling import Sampling
from scheduler.errors import UserInputError


def require_greedy(bundle: Bundle, sampling: Sampling) -> None:
    """Raise UserInputError for sampling with a bundle whose lm_head ends in an ArgMax."""
    if bundle.layout != "article":
        return
    neutral = Sampling()
    for flag, given, off in (
        ("--temperature", sampling.temperature, neutral.temperature),
        ("--top-k", sampling.top_k, neutral.top_k),
        ("--top-p", sampling.top_p, neutral.top_p),
        ("min_p", sampling.min_p, neutral.min_p),
        ("presence_penalty", sampling.presence_penalty, neutral.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty, neutral.frequency_penalty),
        ("logit_bias", len(sampling.logit_bias), 0),
        ("logprobs", sampling.top_logprobs, neutral.top_logprobs),
    ):
        if given != off:
            raise UserInputError(
                f"{flag} {given:g} needs logits, and {bundle.path / LM_NAME} ends in an ArgMax that"
                " returns a token id only; leave the option out to decode greedily."
            )
