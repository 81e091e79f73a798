"""Workspace: the hidden directory in which a bundle grows, and the journal of what is finished."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from runtime.bundle import Bundle, BundleFile, Variant, hash_file
from scheduler.errors import BundleError, CheckpointError, UserInputError
from scheduler.file_lock import LockedError, hold_lock
from scheduler.whole_file import make_folder, sync_file, write_whole

_JOURNAL = "journal.jsonl"
_TEMPORARY = "temporary"


def workspace_of(out: Path) -> Path:
    """Where a bundle for ``out`` grows: beside it, so that the final rename is atomic."""
    return out.with_name(f".{out.name}.partial")


class ExportRunningError(BundleError):
    """Another process exports to the same place."""


@contextlib.contextmanager
def only_export(out: Path) -> Iterator[None]:
    """Keep every other process from exporting to ``out``.

    Raises ExportRunningError while one does. A folder that was made for nothing goes again.
    """
    made = not out.parent.exists()
    make_folder(out.parent)
    try:
        with hold_lock(out.with_name(f".{out.name}.lock")):
            yield
    except LockedError:
        raise ExportRunningError(
            f"Another export is writing {out}; wait for it, or choose another --out."
        ) from None
    finally:
        if made:
            with contextlib.suppress(OSError):
                out.parent.rmdir()  # refuses where the bundle is, or its parts


class Workspace:
    """One export's directory; the caller holds its lock, `only_export`.

    Finished variants are written down in a journal with their checksums. With ``resume``, those of
    an earlier run by the same versions (``made_by``) are kept if their files still match; one of
    another ``source`` is refused. Left by an exception, the directory stays for a later resume,
    except when the checkpoint or request was at fault.
    """

    def __init__(self, out: Path, source: str, made_by: dict[str, str], resume: bool) -> None:
        self.path = workspace_of(out)
        self.finished: dict[str, list[Variant]] = {}
        self._header = {"source_sha256": source, "made_by": made_by}
        self._resume = resume

    @property
    def temporary(self) -> Path:
        """A folder for files that are not part of the bundle, empty at the start."""
        return self.path / _TEMPORARY

    def __enter__(self) -> Workspace:
        make_folder(self.path)
        if self._resume:
            self._read_journal()
        for entry in self.path.iterdir():
            if not (self._resume and self._is_finished(entry)):
                _remove(entry)
        self._rewrite_journal()
        self.temporary.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, (CheckpointError, UserInputError)):
            shutil.rmtree(self.path, ignore_errors=True)

    def record(self, part: str, variant: Variant) -> None:
        """Write down a finished variant, durably; its files must be on the disk already."""
        self.finished.setdefault(part, []).append(variant)
        with (self.path / _JOURNAL).open("a", encoding="utf-8") as journal:
            entry = {"part": part, "variant": variant.model_dump()}
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def adopt(self, bundle: Bundle) -> None:
        """Take over the variants of a finished bundle of the same source, without a copy."""
        for part in bundle.manifest.parts:
            for variant in part.variants:
                if self._has(part.name, variant):
                    continue
                for file in variant.files:
                    target = self.path / file.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(bundle.file(file), target)
                self.record(part.name, variant)

    def _has(self, part: str, variant: Variant) -> bool:
        kind = (variant.engine, variant.precision, variant.weight_block)
        return any(
            (one.engine, one.precision, one.weight_block) == kind
            for one in self.finished.get(part, [])
        )

    def seal(self) -> None:
        """Remove all that is not part of the bundle; the next step is to publish it."""
        shutil.rmtree(self.temporary)
        (self.path / _JOURNAL).unlink()

    def _read_journal(self) -> None:
        """Fill `finished` from the journal; a torn last line, as a power cut leaves, is ignored."""
        journal = self.path / _JOURNAL
        if not journal.exists():
            return
        lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
        with contextlib.suppress(ValueError, LookupError, TypeError, ValidationError):
            header = json.loads(lines[0])
            if header["source_sha256"] != self._header["source_sha256"]:
                raise UserInputError(
                    f"{self.path} was begun from another checkpoint; export without --resume to"
                    " start anew."
                )
            if header != self._header:
                return
            for line in lines[1:]:
                entry = json.loads(line)
                variant = Variant.model_validate(entry["variant"])
                if all(self._matches(file) for file in variant.files):
                    self.finished.setdefault(str(entry["part"]), []).append(variant)

    def _matches(self, file: BundleFile) -> bool:
        path = self.path / file.path
        inside = path.resolve().is_relative_to(self.path.resolve())
        try:
            return (
                inside and path.stat().st_size == file.size_bytes and hash_file(path) == file.sha256
            )
        except (OSError, BundleError):
            return False

    def _is_finished(self, entry: Path) -> bool:
        """Whether a top-level entry holds finished files, which are then all that is kept of it."""
        kept = {
            self.path / file.path
            for variants in self.finished.values()
            for variant in variants
            for file in variant.files
        }
        if not entry.is_dir() or not any(file.is_relative_to(entry) for file in kept):
            return False
        for file in entry.iterdir():
            if file not in kept:
                _remove(file)
        return True

    def _rewrite_journal(self) -> None:
        journal = self.path / _JOURNAL
        write_whole(journal, json.dumps(self._header) + "\n")
        finished, self.finished = self.finished, {}
        for part, variants in finished.items():
            for variant in variants:
                self.record(part, variant)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        sync_file(target)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
