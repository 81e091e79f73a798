"""Which model runs, from where, and by which plan: --bundle, --plan, or the planning options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from runtime.cli.given import given_options
from scheduler.backend_names import Engine, engines_of
from scheduler.errors import UserInputError
from scheduler.plan import Precision
from scheduler.planning import Planning

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from scheduler.model import ModelSpec
    from scheduler.plan import Plan

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PLANNING = {
    "vram",
    "gpus",
    "cpu",
    "rams",
    "precision",
    "gpu_precision",
    "cpu_precision",
    "reserve",
    "max_vram",
    "gpu_blocks",
    "context",
    "slots",
    "policy",
    "objective",
    "gpu_backend",
    "cpu_backend",
}


def target_options(function: _Function) -> _Function:
    """Add --bundle and --plan to a click command, as `bundle_dir` and `plan_file`."""
    bundle = click.option(
        "--bundle",
        "bundle_dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="An exported model. [default: that of --model, exported when it is first used]",
    )
    plan = click.option(
        "--plan",
        "plan_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A plan written by `glm-plan plan --out FILE`, instead of planning now.",
    )
    return bundle(plan(function))


def target_of(
    planning: Planning, bundle_dir: Path | None, plan_file: Path | None
) -> tuple[Plan, ModelSpec, Bundle]:
    """Resolve what the options name; the bundle's own geometry is what gets planned.

    A pulled model without a bundle is exported first, see `bundle_of_model`.

    Raises UserInputError for options that contradict each other, BundleError for a model that has
    no bundle, PlanError for a plan that is not one or belongs to another model.
    """
    from runtime.article.folder import open_model
    from runtime.bundle_spec import spec_of_bundle
    from runtime.cli.stored import bundle_of_model
    from scheduler.plan_file import read_plan

    given = given_options()
    refuse_model_beside_bundle(bundle_dir)
    if plan_file is not None and given & _PLANNING:
        name = sorted(given & _PLANNING)[0]
        flag = {"gpus": "gpu", "rams": "ram"}.get(name, name).replace("_", "-")
        raise UserInputError(f"--plan is a finished decision; leave --{flag} out or plan anew.")
    plan = read_plan(plan_file) if plan_file is not None else None
    if bundle_dir is not None:
        bundle = open_model(bundle_dir)
    else:
        name = planning.model if plan is None or "model" in given else plan.model
        wanted, engines = _wanted_precisions(planning, plan), planning.engines
        if plan is not None:
            engines = engines_of(stage.backend for stage in plan.stages)
        bundle = bundle_of_model(name, wanted, engines, planning)
    spec = spec_of_bundle(bundle)
    if plan is None:
        directory = str(bundle_dir) if bundle_dir else None
        planning = as_stored(planning, bundle)
        stored = stored_precisions(bundle, planning.engines)
        choices = ort_choices(bundle)
        return planning.plan(spec, directory, stored, choices), spec, bundle
    if (plan.model, plan.gpu_blocks + plan.cpu_blocks) != (spec.name, spec.blocks):
        raise UserInputError(
            f"{plan_file} plans {plan.model} with {plan.gpu_blocks + plan.cpu_blocks} blocks and"
            f" the bundle {bundle.path} holds {spec.name} with {spec.blocks}; plan anew for it."
        )
    return plan, spec, bundle


def refuse_model_beside_bundle(bundle_dir: Path | None) -> None:
    """Raise UserInputError when the command line names a model twice."""
    if bundle_dir is not None and "model" in given_options():
        raise UserInputError("--bundle names a model already; leave --model out.")


def refuse_planning_beside_server() -> None:
    """Raise UserInputError when the command line names a server and also what to load."""
    for name in sorted(given_options() & (_PLANNING | {"model", "bundle_dir", "plan_file"})):
        flag = {"gpus": "gpu", "rams": "ram", "bundle_dir": "bundle", "plan_file": "plan"}.get(
            name, name
        )
        raise UserInputError(
            f"--server has a model and its plan; leave --{flag.replace('_', '-')} out."
        )


def as_stored(planning: Planning, bundle: Bundle) -> Planning:
    """The planning with what the bundle has where the user says nothing.

    A bundle without files for MNN is run by ONNX Runtime. Of precisions, the most exact is taken.
    Fp16 needs no word, since both defaults are served from it, nor does `fit`, which chooses among
    what is stored.
    """
    if not any(one.engine == "mnn" for one in bundle.manifest.parts[0].variants):
        planning = dataclasses.replace(
            planning,
            gpu_backend=planning.gpu_backend or "ort:webgpu",
            cpu_backend=planning.cpu_backend or "ort:cpu",
        )
    stored = stored_precisions(bundle, planning.engines)
    chooses = planning.policy == "fit" and bundle.layout != "article"
    if not stored or "fp16" in stored or chooses:
        return planning
    best = next(one for one in get_args(Precision) if one in stored)
    return dataclasses.replace(
        planning,
        gpu_precision=planning.gpu_precision or best,
        cpu_precision=planning.cpu_precision or best,
    )


def stored_precisions(bundle: Bundle, engines: Collection[Engine]) -> frozenset[Precision]:
    """The precisions of which files of every block are there for each engine, and a lm_head."""
    from runtime.bundle import served_precisions

    return frozenset.intersection(
        *(served_precisions(part, engine) for part in bundle.manifest.parts for engine in engines)
    )


def ort_choices(bundle: Bundle) -> frozenset[Precision]:
    """The precisions that ONNX Runtime serves from this bundle; fp16 files serve fp32."""
    engine: Engine = "ort"
    stored = stored_precisions(bundle, [engine])
    return stored | {"fp32"} if "fp16" in stored else stored


def _wanted_precisions(planning: Planning, plan: Plan | None) -> list[Precision]:
    """What the command line or the plan asks for; empty where both leave it open."""
    if plan is not None:
        parts = [(stage.precision, stage.lm_head_precision) for stage in plan.stages]
        return [one for part in parts for one in part if one]
    return [one for one in (planning.gpu_precision, planning.cpu_precision) if one]
