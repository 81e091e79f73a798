"""What a request does to logits before a token is chosen, and the log probabilities it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from runtime.sampling import Sampling

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenLogprobs:
    """The natural log probability of a chosen token, and of the likeliest ones, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def adjusted(logits: Logits, sampling: Sampling, generated: Sequence[int]) -> Logits:
    """Logits [vocab_size] after bias and penalties; the same array where there are none.

    ``bias`` is added, then each token of this answer loses ``frequency_penalty`` times its count
    and ``presence_penalty`` once, as OpenAI's API reference defines it. Tokens of the prompt do not
    count.
    """
    penalised = generated and (sampling.presence_penalty or sampling.frequency_penalty)
    if not (sampling.logit_bias or penalised):
        return logits
    changed: Logits = logits.copy()
    for token, bias in sampling.logit_bias:
        changed[token] += bias
    if penalised:
        tokens, counts = np.unique(np.asarray(generated), return_counts=True)
        changed[tokens] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    return changed


def token_logprobs(logits: Logits, token_id: int, top: int) -> TokenLogprobs:
    """Log probabilities by the model's own logits [vocab_size], before any bias, filter or
    temperature; of equal tokens the one with the smaller id comes first."""
    wide = logits.astype(np.float64)
    highest = float(wide.max())
    log_sum = highest + float(np.log(np.exp(wide - highest).sum()))
    count = min(top, len(wide))
    best = np.argpartition(-wide, count - 1)[:count] if count else np.arange(0)
    best = best[np.lexsort((best, -wide[best]))]
    return TokenLogprobs(
        token_id,
        float(wide[token_id]) - log_sum,
        tuple((int(token), float(wide[token]) - log_sum) for token in best),
    )
