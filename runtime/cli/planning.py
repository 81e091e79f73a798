"""Options about placement that plan, run, chat and demo share, and the plan they ask for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import click

from scheduler.planning import read_planning

PLANNING_WORDS = tuple(inspect.signature(read_planning).parameters)
_PRECISIONS = click.Choice(["fp32", "fp16", "int8", "int4"])


def planning_options(
    default_model: str, host_flag: str = "--host"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the placement options to a click command, which receives them as `planning: Planning`.

    `host_flag` names a stored host profile, where --host itself means something else.
    """
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
        click.option(
            "--gpu",
            "gpus",
            multiple=True,
            metavar="NAME",
            help="A graphics card to plan for, here or not: `glm-plan gpus` lists them. Repeat it"
            " for more.",
        ),
        click.option("--cpu", metavar="NAME", help="A processor instead of this machine's."),
        click.option(
            "--ram",
            "rams",
            multiple=True,
            metavar="SIZE|NAME",
            help="Installed RAM (32, 32GiB) or its class (dual DDR4-3200) instead of what is here;"
            " give both by repeating it.",
        ),
        click.option(
            host_flag,
            "host_name",
            metavar="NAME",
            help="Speeds as `glm-plan calibrate` stored them under NAME.  [default: this machine's,"
            " if it was calibrated]",
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
            "--max-vram",
            metavar="SIZE",
            help="Use no more than this of each GPU, whatever is free.",
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
            help="Requests that run at once.  [default: 1]",
        ),
        click.option(
            "--policy",
            type=click.Choice(["reserve", "fit"]),
            default="reserve",
            show_default=True,
            help="reserve: floor((free - reserve) / block) blocks on each GPU. fit: the fastest"
            " placement within all memory, choosing precision and context where you do not.",
        ),
        click.option(
            "--objective",
            type=click.Choice(["latency", "throughput"]),
            default="latency",
            show_default=True,
            help="What fit makes fast: one token, or the slowest stage.",
        ),
        click.option(
            "--gpu-backend",
            metavar="NAME",
            help="What runs GPU stages: mnn:cuda, ort:webgpu, ort:cuda and others that `glm-plan"
            " devices` lists.",
        ),
        click.option(
            "--cpu-backend",
            metavar="NAME",
            help="What runs the CPU stage: mnn:cpu or ort:cpu.  [default: mnn:cpu]",
        ),
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**given: Any) -> Any:
            words = {name: given.pop(name) for name in PLANNING_WORDS}
            return function(planning=read_planning(**words), **given)

        decorated: Callable[..., Any] = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
