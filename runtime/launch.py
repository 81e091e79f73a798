"""From a plan to what really starts: files, the backend that exists, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.bundle import Bundle, select_variant
from scheduler.plan import Plan, Stage

_PARENT_BYTES = 0


@dataclass(frozen=True)
class StageLaunch:
    """One worker to start; `asked_backend` is the plan's, `backend` the one that really runs."""

    device: str
    asked_backend: str
    backend: str
    gpu_index: int | None
    threads: int
    block_files: tuple[tuple[int, Path], ...]
    lm_head_file: Path | None

    @property
    def block_span(self) -> str:
        """Blocks as people read them: ``0-22``, or ``none``."""
        if not self.block_files:
            return "none"
        return f"{self.block_files[0][0]}-{self.block_files[-1][0]}"

    @property
    def fallback(self) -> str | None:
        """What every output must say when the asked backend does not exist here."""
        if self.asked_backend == self.backend:
            return None
        asked, really = (
            name.partition(":")[2].upper() for name in (self.asked_backend, self.backend)
        )
        return f"asked for {asked}, running on {really}"


def launches_of(
    plan: Plan, bundle: Bundle, working_backends: frozenset[str], threads: int
) -> list[StageLaunch]:
    """What to start, stage by stage; a backend that does not work here becomes mnn:cpu.

    `working_backends` holds names such as ``mnn:cuda`` that were proved on this machine. Raises
    BundleError when the bundle lacks what the plan needs.
    """
    return [_launch(stage, bundle, working_backends, threads) for stage in plan.stages]


def _launch(stage: Stage, bundle: Bundle, working: frozenset[str], threads: int) -> StageLaunch:
    backend = stage.backend if stage.backend in working else "mnn:cpu"
    gpu_index = int(stage.device.removeprefix("gpu")) if stage.device.startswith("gpu") else None
    engine = backend.partition(":")[0]
    return StageLaunch(
        device=stage.device,
        asked_backend=stage.backend,
        backend=backend,
        gpu_index=gpu_index if backend != "mnn:cpu" else None,
        threads=threads,
        block_files=tuple(
            (number, select_variant(bundle, f"block_{number}", engine, stage.precision).path)
            for number in stage.blocks
        ),
        lm_head_file=(
            select_variant(
                bundle, "lm_head", engine, stage.lm_head_precision or stage.precision
            ).path
            if stage.lm_head
            else None
        ),
    )
