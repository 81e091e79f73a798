"""`glm-plan export`: a checkpoint becomes a bundle, with progress and the size of every part."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from scheduler.errors import UserInputError
from scheduler.plan import Precision
from scheduler.units import format_size

if TYPE_CHECKING:
    from runtime.export.check import CheckReport
    from runtime.export.request import ExportRequest, Progress
    from runtime.manifest import Manifest
    from scheduler.backend_names import Engine

SCHEMA = "glm-plan/export/1"


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT|NAME", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="The directory to make.  [default: among the models that --model NAME finds]",
)
@click.option(
    "--precision",
    "precisions",
    metavar="P[,P...]",
    help="How weights are stored: fp32, fp16, int8, int4; several make one bundle that has all."
    "  [default: a GGUF file as it is quantised, anything else fp16]",
)
@click.option(
    "--head-precision",
    "head_precisions",
    metavar="P[,P...]",
    help="How lm_head is stored.  [default: as --precision; without it, as a GGUF file has it]",
)
@click.option(
    "--weight-block",
    type=click.IntRange(16),
    metavar="N",
    help="Values that share a scale at int4: a multiple of 16 that divides the model's widths."
    "  [default: the largest of 128, 64 and 32 that does, or else one scale per row]",
)
@click.option(
    "--backend",
    "engines",
    default="mnn",
    show_default=True,
    metavar="E[,E...]",
    help="What shall run it: mnn, ort (ONNX Runtime); both make one bundle that has all.",
)
@click.option("--name", metavar="NAME", help="The model's name.  [default: the directory's name]")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Conversions at once.  [default: what free RAM and the cores allow]",
)
@click.option(
    "--check",
    is_flag=True,
    help="Then compare every part with the checkpoint's weights; exit code 2 when one is too far"
    " off.",
)
@click.option("--resume", is_flag=True, help="Keep what an interrupted export has finished.")
@click.option("--force", is_flag=True, help="Replace the bundle that is at --out.")
@click.option("--json", "as_json", is_flag=True, help=f"Print one JSON document ({SCHEMA}).")
def command(
    checkpoint: Path,
    out: Path | None,
    precisions: str | None,
    head_precisions: str | None,
    weight_block: int | None,
    engines: str,
    name: str | None,
    jobs: int | None,
    check: bool,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a checkpoint into a bundle: one file per block, any of them on any device.

    CHECKPOINT is a directory with config.json, tokenizer and weights (safetensors or
    pytorch_model.bin, single or sharded) of a ChatGLM 1 to 3, GLM-4, Llama, Mistral, Qwen2, Qwen2.5
    or Qwen3; of ChatGLM-6B also the int8 and int4 releases. Nothing is downloaded and no code of
    the checkpoint runs. The bundle appears at --out only when it is complete; a
    bundle of the same checkpoint that is there already gains the precisions it lacks.

    NAME is a model that `glm-plan pull` fetched. Without --out, --model NAME runs the bundle.

    \b
    glm-plan export qwen3-0.6b --precision int4
    glm-plan export ./chatglm-6b --out ./bundle --precision fp16,int4
    glm-plan run --bundle ./bundle --vram 11 "你好"
    """
    _require_extra()
    from runtime.cli.stored import bundle_home, checkpoint_of
    from runtime.export.request import ExportRequest

    checkpoint, stored_name = checkpoint_of(checkpoint)
    if out is None:
        name = name or stored_name or checkpoint.resolve().stem.casefold()
        out = bundle_home(name)
    request = ExportRequest(
        checkpoint=checkpoint,
        out=out,
        precisions=() if precisions is None else parse_precisions(precisions),
        head_precisions=parse_precisions(head_precisions) if head_precisions else None,
        weight_block=weight_block,
        name=name or stored_name,
        jobs=jobs,
        resume=resume,
        force=force,
        engines=parse_engines(engines),
    )
    manifest, seconds = export_with_progress(request)
    if not as_json:
        _show(request.out, manifest, seconds)
    report = run_check(checkpoint, out) if check else None
    if as_json:
        checked = {"check": dataclasses.asdict(report)} if report is not None else {}
        click.echo(json.dumps(document(out, manifest, seconds) | checked, indent=1))
    elif report is not None:
        show_check(report)
    if report is not None:
        require_close(report, out)


def export_and_report(
    checkpoint: Path, out: Path, precisions: Sequence[str], name: str
) -> Manifest:
    """Export as the command does, with its progress bar and table of sizes."""
    from runtime.export.request import ExportRequest

    request = ExportRequest(checkpoint, out, parse_precisions(",".join(precisions)), name=name)
    manifest, seconds = export_with_progress(request)
    _show(out, manifest, seconds)
    return manifest


def run_check(checkpoint: Path, bundle: Path) -> CheckReport:
    """Compare a bundle with its checkpoint, with a progress bar."""
    _require_extra()
    from runtime.export.check import check_bundle

    with _progress_bar() as on_progress:
        return check_bundle(checkpoint, bundle, on_progress)


def show_check(report: CheckReport) -> None:
    """Print a table of errors for every encoding."""
    from rich.console import Console

    from runtime.cli.check_view import check_tables

    console = Console()
    for table in check_tables(report):
        console.print(table)


def require_close(report: CheckReport, bundle: Path) -> None:
    """Refuse a bundle whose errors rounding does not explain; BundleError."""
    from runtime.export import check_gate

    check_gate.require_close(report, bundle)


def parse_precisions(text: str) -> tuple[Precision, ...]:
    """``fp16,int4`` as a tuple without repeats; UserInputError for anything else."""
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if word not in get_args(Precision):
            raise UserInputError(
                f"--precision is {text!r}; expected one or more of {', '.join(get_args(Precision))}"
                " with commas between."
            )
    return cast("tuple[Precision, ...]", tuple(dict.fromkeys(words)))


def parse_engines(text: str) -> tuple[Engine, ...]:
    """``mnn,ort`` as a tuple without repeats; UserInputError for anything else."""
    words = [word.strip().lower() for word in text.split(",")]
    if any(word not in ("mnn", "ort") for word in words):
        raise UserInputError(f"--backend is {text!r}; expected mnn, ort, or mnn,ort.")
    return cast("tuple[Engine, ...]", tuple(dict.fromkeys(words)))


def _require_extra() -> None:
    missing = [name for name in ("onnx", "safetensors") if find_spec(name) is None]
    if missing:
        raise UserInputError(
            f"Exporting needs {' and '.join(missing)}: pip install 'glm-plan[export]'."
        )


def export_with_progress(request: ExportRequest) -> tuple[Manifest, float]:
    """Export with a progress bar on stderr; returns the manifest and the seconds it took."""
    _require_extra()
    from runtime.export.exporter import export_bundle
    from runtime.export.workspace import ExportRunningError

    began = time.perf_counter()
    try:
        with _progress_bar() as on_progress:
            manifest = export_bundle(request, on_progress)
    except ExportRunningError:
        raise
    except BaseException:
        _say_what_is_kept(request)
        raise
    return manifest, time.perf_counter() - began


def _say_what_is_kept(request: ExportRequest) -> None:
    from runtime.export.workspace import workspace_of

    kept = workspace_of(request.out)
    if kept.exists():
        how = "run the same command" if request.resume else "add --resume"
        click.echo(f"Finished parts are kept in {kept}; {how} to go on.", err=True)


class _progress_bar:  # noqa: N801 (used like a function: with _progress_bar() as on_progress)
    """A bar on stderr: the part in work, bytes written, and the time left."""

    def __enter__(self) -> Callable[[Progress], None]:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[written]} written"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("reading", total=None, written="0 B")
        self._bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _update(self, progress: Progress) -> None:
        self._bar.update(
            self._task,
            description=progress.doing,
            completed=progress.done_bytes,
            total=progress.total_bytes,
            written=format_size(progress.written_bytes),
        )


def document(out: Path, manifest: Manifest, seconds: float) -> dict[str, Any]:
    """The JSON form: sizes in bytes as measured on disk, time in seconds as measured."""
    return {
        "schema": SCHEMA,
        "bundle": str(out),
        "model": manifest.model,
        "source_precision": manifest.source_precision,
        "source_sha256": manifest.source_sha256,
        "seconds": round(seconds, 3),
        "embedding_bytes": manifest.embedding.file.size_bytes,
        "total_bytes": manifest.size_bytes,
        "parts": [
            {
                "part": part.name,
                "engine": variant.engine,
                "precision": variant.precision,
                "weight_block": variant.weight_block,
                "size_bytes": variant.size_bytes,
                "stored": [one.model_dump() for one in variant.stored],
            }
            for part in manifest.parts
            for variant in part.variants
        ],
    }


def _show(out: Path, manifest: Manifest, seconds: float) -> None:
    from rich.console import Console

    from runtime.cli.bundle_view import sizes_table, stored_lines

    console = Console()
    console.print(sizes_table(manifest))
    for line in stored_lines(manifest):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(
        f"{manifest.model}: {format_size(manifest.size_bytes)} in {seconds:.1f} s at {out}",
        highlight=False,
        soft_wrap=True,
    )
    window = manifest.geometry.sliding_window
    if window is not None:
        console.print(
            f"Its context ends at {window} tokens: there its sliding window begins to hide some,"
            " which these blocks cannot.",
            soft_wrap=True,
        )
