"""Every part from checkpoint to its engines' files: one in memory at a time, several converted."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock

from runtime.bundle import Variant
from runtime.export.converter import StoppedError, convert
from runtime.export.files import describe
from runtime.export.model_source import ModelSource
from runtime.export.ort_encode import encode
from runtime.export.request import Encoding
from runtime.export.resources import weight_bytes, work_bytes
from runtime.export.tracker import Tracker
from runtime.export.workspace import Workspace
from scheduler.errors import CheckpointError
from scheduler.model import ModelSpec

LM_HEAD = "lm_head"


class PartMaker:
    """Makes the missing variants of a bundle and records each one as it is finished."""

    def __init__(
        self, source: ModelSource, workspace: Workspace, spec: ModelSpec, tracker: Tracker
    ) -> None:
        self._source = source
        self._workspace = workspace
        self._spec = spec
        self._tracker = tracker
        self._weights_in_memory = Lock()
        self._writing_down = Lock()
        self._stop = Event()

    def make(self, missing: Mapping[str, list[Encoding]], jobs: int) -> None:
        """Make each part's missing encodings, ``jobs`` blocks at once, lm_head alone.

        lm_head takes six times the memory of a block. The first failure, or an interrupt, ends
        the others at once; what is finished stays recorded. Raises what the source and `convert`
        raise.
        """
        blocks = {part: encodings for part, encodings in missing.items() if part != LM_HEAD}
        self._make_together(blocks, jobs)
        self._make_together({LM_HEAD: missing.get(LM_HEAD, [])}, 1)

    def _make_together(self, missing: Mapping[str, list[Encoding]], jobs: int) -> None:
        with ThreadPoolExecutor(jobs, thread_name_prefix="export") as pool:
            futures = [pool.submit(self._make_part, *item) for item in missing.items()]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(future.done() for future in futures):
                    self._stop.set()
                    for future in futures:
                        future.cancel()
        _raise_first_failure(futures)

    def _make_part(self, part: str, encodings: list[Encoding]) -> None:
        # The converter cuts fp32 to fp16 towards zero, so what is not fp16 is rounded before.
        exact = self._source.precision == "fp16"
        halved = [one for one in encodings if one.precision == "fp16" and not exact]
        plain = [one for one in encodings if one not in halved]
        for some, half in ((plain, False), (halved, True)):
            if some:
                with TemporaryDirectory(dir=self._workspace.temporary) as folder:
                    onnx_path = Path(folder) / f"{part}.onnx"
                    self._write_graph(onnx_path, part, half)
                    for encoding in some:
                        self._make_variant(onnx_path, part, encoding)

    def _make_variant(self, onnx_path: Path, part: str, encoding: Encoding) -> None:
        self._tracker.start(f"{part} {encoding.precision}")
        stem = part if part == LM_HEAD else f"block_{int(part.removeprefix('block_')):02d}"
        stored = []
        if encoding.engine == "ort":
            target = self._workspace.temporary / encoding.directory / f"{stem}.onnx"
            target.parent.mkdir(exist_ok=True)
            made = encode(onnx_path, target, encoding)
        else:
            least_bytes = weight_bytes(self._spec, part, encoding)
            mnn_path = onnx_path.with_name(f"{stem}.mnn")
            made = convert(onnx_path, mnn_path, encoding, least_bytes, self._stop)
            if self._source.stored and encoding.precision in ("int8", "int4"):
                stored = self._source.stored.take_over(part, mnn_path)
        folder = self._workspace.path / encoding.directory
        folder.mkdir(exist_ok=True)
        files = [file.rename(folder / file.name) for file in made]
        variant = Variant(
            engine=encoding.engine,
            precision=encoding.precision,
            weight_block=encoding.weight_block,
            files=[describe(self._workspace.path, file) for file in files],
            stored=stored,
        )
        with self._writing_down:
            self._workspace.record(part, variant)
        self._tracker.finish(work_bytes(self._spec, part), variant.size_bytes)

    def _write_graph(self, path: Path, part: str, half: bool) -> None:
        with self._weights_in_memory:
            if self._stop.is_set():
                raise StoppedError
            self._tracker.start(part)
            try:
                if part == LM_HEAD:
                    self._source.write_lm_head(path, half)
                else:
                    self._source.write_block(path, int(part.removeprefix("block_")), half)
            except OverflowError as error:
                raise CheckpointError(
                    f"{self._source.location} cannot be stored as fp16: {error} ({part});"
                    " choose fp32 or int8."
                ) from error


def _raise_first_failure(futures: list[Future[None]]) -> None:
    """Raise the failure that stopped the others, not one of the stops that it caused."""
    failures = [future.exception() for future in futures if not future.cancelled()]
    for failure in failures:
        if failure is not None and not isinstance(failure, StoppedError):
            raise failure
