"""Options about placement that plan, run, chat and demo share, and the plan they ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from scheduler.errors import UserInputError
from scheduler.units import parse_size

if TYPE_CHECKING:
    from scheduler.hardware import Host
    from scheduler.model import ModelSpec
    from scheduler.plan import Plan, Precision
    from scheduler.request import PlanRequest

_PRECISIONS = click.Choice(["fp32", "fp16", "int8", "int4"])


@dataclass(frozen=True)
class Planning:
    """What the user said about placement; sizes in bytes, None where nothing was said."""

    model: str
    vram_bytes: tuple[int, ...] | None
    gpu_precision: Precision
    cpu_precision: Precision
    reserve_bytes: int | None
    gpu_blocks: int | None
    context: int | None
    slots: int
    policy: Literal["reserve"]

    def request(self, spec: ModelSpec, bundle: str | None = None) -> PlanRequest:
        """What to ask the planner; `bundle` is the directory that the plan's command shall name."""
        from scheduler.request import PlanRequest

        return PlanRequest(
            model=spec,
            bundle=bundle,
            vram_bytes=self.vram_bytes,
            gpu_precision=self.gpu_precision,
            cpu_precision=self.cpu_precision,
            reserve_bytes=self.reserve_bytes,
            gpu_blocks=self.gpu_blocks,
            context=self.context,
            slots=self.slots,
            policy=self.policy,
        )

    def plan(self, spec: ModelSpec, bundle: str | None = None) -> Plan:
        """Measure this host, GPUs only where --vram does not state them, and plan."""
        from scheduler.planner import make_plan

        return make_plan(self.request(spec, bundle), self._host())

    def _host(self) -> Host:
        if self.vram_bytes is None:
            from scheduler.probe import probe_host

            return probe_host()
        import sys
        from pathlib import Path

        from scheduler.hardware import Host
        from scheduler.probe.cpu import probe_cpu

        cpu, notes = probe_cpu(Path("/"), sys.platform)
        return Host(cpu=cpu, notes=notes)


def planning_options(
    default_model: str,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the placement options to a click command, which receives them as `planning: Planning`."""
    options = [
        click.option(
            "--model", metavar="NAME", default=default_model, show_default=True, help="Model name."
        ),
        click.option(
            "--vram",
            multiple=True,
            metavar="SIZE",
            help="Free memory of a GPU instead of what is measured: 11, 11.5, 11000MiB (GiB when no"
            " unit is given). Repeat it for more GPUs, in order.",
        ),
        click.option("--precision", type=_PRECISIONS, help="Of the weights on both sides."),
        click.option("--gpu-precision", type=_PRECISIONS, help="On GPUs only.  [default: fp16]"),
        click.option("--cpu-precision", type=_PRECISIONS, help="On the CPU only.  [default: fp32]"),
        click.option(
            "--reserve",
            metavar="SIZE",
            help="Memory to keep free on each GPU.  [default: the model's, or 2 GiB]",
        ),
        click.option(
            "--gpu-blocks",
            type=int,
            metavar="N",
            help="Blocks on the GPUs, whatever the policy says.",
        ),
        click.option(
            "--context",
            type=int,
            metavar="N",
            help="Tokens of prompt and answer.  [default: 2048, or the model's most]",
        ),
        click.option(
            "--slots",
            type=int,
            metavar="N",
            default=1,
            show_default=True,
            help="Requests that run at once.",
        ),
        click.option(
            "--policy",
            type=click.Choice(["reserve"]),
            default="reserve",
            show_default=True,
            help="reserve: floor((free - reserve) / block) blocks on each GPU.",
        ),
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(
            model: str,
            vram: tuple[str, ...],
            precision: str | None,
            gpu_precision: str | None,
            cpu_precision: str | None,
            reserve: str | None,
            gpu_blocks: int | None,
            context: int | None,
            slots: int,
            policy: str,
            **others: Any,
        ) -> Any:
            gpu, cpu = _precisions(precision, gpu_precision, cpu_precision)
            planning = Planning(
                model=model,
                vram_bytes=tuple(parse_size(text, "--vram") for text in vram) or None,
                gpu_precision=gpu,
                cpu_precision=cpu,
                reserve_bytes=None if reserve is None else parse_size(reserve, "--reserve"),
                gpu_blocks=gpu_blocks,
                context=context,
                slots=slots,
                policy=cast('Literal["reserve"]', policy),
            )
            return function(planning=planning, **others)

        decorated: Callable[..., Any] = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _precisions(both: str | None, gpu: str | None, cpu: str | None) -> tuple[Precision, Precision]:
    """Precision of the GPU side and the CPU side."""
    one_side = "--gpu-precision" if gpu else "--cpu-precision" if cpu else None
    if both and one_side:
        raise UserInputError(
            f"--precision sets both sides and {one_side} one of them; use --precision alone, or"
            " --gpu-precision and --cpu-precision."
        )
    return cast("Precision", gpu or both or "fp16"), cast("Precision", cpu or both or "fp32")
