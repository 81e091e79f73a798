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
    ):
        if given != off:
            raise UserInputError(
                f"{flag} {given:g} needs logits, and {bundle.path / LM_NAME} ends in an ArgMax that"
                " returns a token id only; leave the option out to decode greedily."
            )
