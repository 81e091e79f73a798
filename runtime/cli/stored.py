"""A model by name: the bundle of it on this disk, exported now where only a checkpoint is there."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.errors import BundleError, CheckpointError, PlanError, UserInputError
from scheduler.wording import listing

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.model_store import StoredModel
    from scheduler.backend_names import Engine
    from scheduler.plan import Precision
    from scheduler.planning import Planning

_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


def bundle_of_model(
    name: str, wanted: Collection[Precision], engines: Collection[Engine], planning: Planning
) -> Bundle:
    """Open the bundle that `--model NAME` means.

    A pulled checkpoint is exported into the store first, for these engines at the `wanted`
    precisions or else at the most exact one that fits, a GGUF file as it is stored; a bundle there
    gains those it lacks. Raises UserInputError for an unknown name, BundleError for a model that is
    not on this disk, PlanError for one that fits at no precision, and what an export raises.
    """
    from runtime.bundle import open_bundle
    from runtime.cli.target import stored_precisions
    from runtime.model_store import find_model

    model = find_model(name)
    if model.bundle is not None:
        bundle = open_bundle(model.bundle)
        stored = stored_precisions(bundle, engines)
        own = model.bundle == model.bundle_home and model.checkpoint is not None
        if own and not stored and not wanted:
            wanted = [precision_that_fits(model, planning)]
        lacking = _to_export(wanted, stored)
        if not lacking or not own:
            return bundle
    elif model.checkpoint is None:
        raise BundleError(_not_here(model))
    else:
        lacking = _to_export(wanted, ())
        if not lacking and model.checkpoint.suffix.lower() != ".gguf":
            lacking = [precision_that_fits(model, planning)]
    _export_into_store(model, lacking, engines)
    return open_bundle(model.bundle_home)


def precision_that_fits(model: StoredModel, planning: Planning) -> Precision:
    """The most exact of fp16, int8 and int4 at which a model fits the machine, on both sides.

    Fp16 for a model whose geometry is not known yet. Raises PlanError where not even int4 fits.
    """
    from runtime.model_store import spec_of_model
    from scheduler.planner import make_plan

    try:
        spec = spec_of_model(model)
    except UserInputError:
        return "fp16"
    host, speeds = planning.machine()
    choices: tuple[Precision, ...] = ("fp16", "int8", "int4")
    for precision in choices:
        asked = replace(
            planning,
            policy="fit",
            gpu_precision=precision,
            cpu_precision="fp32" if precision == "fp16" else precision,
        )
        try:
            make_plan(asked.request(spec), host, speeds)
        except PlanError:
            if precision == choices[-1]:
                raise
        else:
            return precision
    raise AssertionError


def checkpoint_of(path: Path) -> tuple[Path, str | None]:
    """What `glm-plan export` shall read: a path that exists, or the checkpoint of a model's name.

    The second value is the model's name in the latter case. Raises CheckpointError where nothing
    of a known model is on this disk; a path that is neither is returned as it is.
    """
    from runtime.model_store import find_model

    if path.exists() or not _NAME.fullmatch(path.as_posix()):
        return path, None
    try:
        model = find_model(path.as_posix())
    except UserInputError:
        return path, None
    if model.checkpoint is None:
        raise CheckpointError(_not_here(model))
    return model.checkpoint, model.name


def bundle_home(name: str) -> Path:
    """Where the bundle of a model goes when no --out is given."""
    from runtime.model_store import check_store_name, stored_model

    return stored_model(check_store_name(name)).bundle_home


def _to_export(wanted: Collection[Precision], stored: Collection[Precision]) -> list[Precision]:
    """The wanted precisions that are not served by what is stored; fp16 files serve fp32 too."""
    lacking = [one for one in dict.fromkeys(wanted) if one not in stored]
    served = "fp16" in stored or "fp16" in lacking
    return [one for one in lacking if not (one == "fp32" and served)]


def _export_into_store(
    model: StoredModel, precisions: list[Precision], engines: Collection[Engine]
) -> None:
    from runtime.cli.export import export_with_progress
    from runtime.export.request import ExportRequest

    assert model.checkpoint is not None
    how = f"at {listing(precisions, 'and')}" if precisions else "as it is stored"
    click.echo(
        f"{model.name}: exporting {model.checkpoint} {how} to"
        f" {model.bundle_home}; this is done once. (--precision chooses another.)",
        err=True,
    )
    request = ExportRequest(
        checkpoint=model.checkpoint,
        out=model.bundle_home,
        precisions=tuple(precisions),
        name=model.name,
        resume=True,
        engines=tuple(engines),
    )
    export_with_progress(request)


def _not_here(model: StoredModel) -> str:
    from runtime.model_store import repository_of

    if repository_of(model.name):
        return f"{model.name} is not on this disk; `glm-plan pull {model.name}` fetches it."
    return (
        f"{model.name} is not on this disk; export its checkpoint with `glm-plan export CHECKPOINT"
        f" --name {model.name}`."
    )
