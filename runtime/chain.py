"""The chain of stages: where each one stands, and what the process that runs it is told."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.geometry import Geometry
from runtime.lanes import LaneShape
from runtime.launch import StageLaunch
from runtime.stage_loop import LoopConfig
from runtime.worker import WorkerConfig


def last_with_blocks(launches: Sequence[StageLaunch]) -> int:
    """The stage that computes the last block."""
    return max(number for number, launch in enumerate(launches) if launch.block_files)


def needs_head_visit(launches: Sequence[StageLaunch]) -> bool:
    """Whether lm_head is before the last blocks, which takes a second visit of the chain."""
    return any(launch.lm_head_file for launch in launches[: last_with_blocks(launches)])


def loop_config(launches: Sequence[StageLaunch], number: int) -> LoopConfig:
    """Where this stage stands; it has arrays of its own."""
    return LoopConfig(
        number=number,
        has_blocks=bool(launches[number].block_files),
        has_lm_head=launches[number].lm_head_file is not None,
        blocks_follow=number < last_with_blocks(launches),
    )


def worker_config(
    launch: StageLaunch, geometry: Geometry, lanes: LaneShape, loop: LoopConfig
) -> WorkerConfig:
    """All that the process of one stage is told at its start."""
    return WorkerConfig(
        backend=launch.backend,
        cuda_device=launch.cuda_device,
        threads=launch.threads,
        half_arithmetic=launch.precision == "fp16",
        fine_scales=launch.fine_scales,
        kv_heads=geometry.kv_heads,
        head_dim=geometry.head_dim,
        rotary=geometry.turning,
        lanes=lanes,
        block_files=launch.block_files,
        lm_head_file=launch.lm_head_file,
        layout=launch.layout,
        loop=loop,
        memory_limit_bytes=launch.memory_limit_bytes,
    )
