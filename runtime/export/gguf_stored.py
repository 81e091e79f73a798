"""How a GGUF model is exported unless told otherwise: as it is stored, where MNN can hold it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from runtime.export.gguf_integers import BITS, GROUP
from runtime.export.gguf_source import GgufSource
from runtime.export.gguf_takeover import layer_names, take_over
from runtime.manifest import StoredMatrices
from scheduler.plan import Precision

_log = logging.getLogger(__name__)

_LM_HEAD = "lm_head"
_INT8 = {"Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"}
_FLOATS = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class GgufStored:
    """The `StoredIntegers` of a GGUF model."""

    source: GgufSource

    def precision(self, part: str) -> Precision:
        """int4 or int8, as the type of most weights in ``part`` has bits; fp16 for floats.

        All blocks count together, so that they are alike; lm_head is as exact as they are.
        """
        own = self._own_precision(part)
        return own if part != _LM_HEAD else min(own, self._own_precision("block_0"), key=_rank)

    def weight_block(self, part: str, precision: Precision) -> int | None:
        """32 where integers of ``part`` can be taken over at this precision, None otherwise."""
        if precision not in ("int4", "int8"):
            return None
        held = 4 if precision == "int4" else 8
        names = self._names(part)
        alike = all((self.source.shape(name) or (0, 0))[1] % GROUP == 0 for name in names)
        fit = any(BITS.get(self.source.type_name(name), 9) <= held for name in names)
        return GROUP if alike and fit else None

    def take_over(self, part: str, mnn_path: Path) -> list[StoredMatrices]:
        """Put stored integers into a quantised file of ``part``, and count what happened."""
        result = take_over(self.source, part, mnn_path)
        _log.info("%s: rounded scales changed a matrix by up to %.1e", part, result.rounding)
        counts = Counter((self.source.type_name(name), way) for name, way in result.how.items())
        return [
            StoredMatrices(type=type_name, how=way, matrices=count)
            for (type_name, way), count in sorted(counts.items())
        ]

    def _own_precision(self, part: str) -> Precision:
        most = self._types(part).most_common(1)[0][0]
        if most in _FLOATS:
            return "fp16"
        return "int8" if most in _INT8 else "int4"

    def _names(self, part: str) -> list[str]:
        parts = [part]
        if part != _LM_HEAD:
            parts = [f"block_{number}" for number in range(self.source.config.blocks)]
        return [name for one in parts for name in layer_names(self.source, one)]

    def _types(self, part: str) -> Counter[str]:
        weights: Counter[str] = Counter()
        for name in self._names(part):
            rows, width = self.source.shape(name) or (0, 0)
            weights[self.source.type_name(name)] += rows * width
        return weights


def _rank(precision: Precision) -> int:
    return get_args(Precision).index(precision)  # the most exact first
