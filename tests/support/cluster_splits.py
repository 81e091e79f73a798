"""A model split by hand over the nodes of a cluster, so many blocks on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from runtime.bundle import Bundle, select_variant
from runtime.cluster.placed import PlacedModel, PlacedStage
from runtime.cluster.ray_door import ClusterNode
from runtime.launch import StageLaunch
from scheduler.plan import Precision


def split(
    bundle: Bundle,
    nodes: Sequence[ClusterNode],
    counts: Sequence[int],
    *,
    head: int = -1,
    precision: str = "fp32",
) -> list[PlacedStage]:
    """One stage of one thread on each node in order; `head` is the stage with lm_head."""
    placed, first = [], 0
    wanted = cast("Precision", precision)

    def file(part: str) -> object:
        variant = select_variant(bundle.manifest, part, "mnn", wanted).variant
        return bundle.file(variant.files[0])

    for number, (node, count) in enumerate(zip(nodes, counts, strict=False)):
        blocks = range(first, first + count)
        launch = StageLaunch(
            device=f"{node.name}/cpu",
            asked_backend="mnn:cpu",
            backend="mnn:cpu",
            cuda_device=None,
            threads=1,
            block_files=tuple((one, file(f"block_{one}")) for one in blocks),  # type: ignore[misc]
            lm_head_file=file("lm_head") if number == head % len(counts) else None,  # type: ignore[arg-type]
        )
        placed.append(PlacedStage(launch, node))
        first += count
    return placed


@dataclass(frozen=True)
class EvenSplit:
    """A Replan: the blocks over all nodes that are there but the first, which only drives."""

    bundle: Bundle

    def __call__(self, present: Sequence[ClusterNode]) -> PlacedModel:
        """Stages in the order of the nodes' names."""
        workers = [node for node in present if node.name != "a"]
        blocks = self.bundle.manifest.geometry.blocks
        counts = [
            blocks // len(workers) + (number < blocks % len(workers))
            for number in range(len(workers))
        ]
        return PlacedModel(split(self.bundle, workers, counts))
