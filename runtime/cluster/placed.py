"""Where each stage of a run lives: a launch, and the node of the cluster that it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.bundle import Bundle
from runtime.cluster.ray_door import ClusterNode
from runtime.launch import StageLaunch
from runtime.manifest import BundleFile
from scheduler.plan import Plan


@dataclass(frozen=True)
class PlacedStage:
    """A stage on a node; the launch's files are those of the driver's bundle."""

    launch: StageLaunch
    node: ClusterNode

    @property
    def place(self) -> str:
        """How people and metrics call it: host/device."""
        return self.launch.device


@dataclass(frozen=True)
class PlacedModel:
    """All stages of a model, and the plan that says so; None where they were placed without one."""

    stages: list[PlacedStage]
    plan: Plan | None = None


def files_of(placed: PlacedStage, bundle: Bundle) -> list[BundleFile]:
    """Every file that a stage opens, with the weights that lie beside graphs."""
    opened = {path for _, path in placed.launch.block_files}
    if placed.launch.lm_head_file is not None:
        opened.add(placed.launch.lm_head_file)
    found: dict[str, BundleFile] = {}
    for part in bundle.manifest.parts:
        for variant in part.variants:
            if bundle.file(variant.files[0]) in opened:
                found |= {file.path: file for file in variant.files}
    return list(found.values())


def relative_launch(launch: StageLaunch, bundle: Bundle) -> StageLaunch:
    """The launch with paths relative to the bundle, as another machine has to read them."""

    def relative(path: Path) -> Path:
        return path.relative_to(bundle.path)

    head = launch.lm_head_file
    return replace(
        launch,
        block_files=tuple((number, relative(path)) for number, path in launch.block_files),
        lm_head_file=None if head is None else relative(head),
    )
