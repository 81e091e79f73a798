"""Measured splits of a model, as a CSV file: GPU blocks and the tokens per second they gave."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import UserInputError
from scheduler.wording import listing, near_matches, shorten

REQUIRED_COLUMNS = ("gpu_blocks", "tokens_per_second")
COLUMNS = (*REQUIRED_COLUMNS, "vram_mib")
_LARGEST_FILE_BYTES = 1 << 20
_FASTEST = 1e6  # tokens per second; beyond that a column has been mistaken for another
_LARGEST_MIB = float(1 << 24)
_WHOLE = re.compile(r"[0-9]{1,6}")
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,30})?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]{1,30}")


@dataclass(frozen=True)
class SplitRow:
    """One measured split: blocks on the GPU, decoded tokens per second, MiB of VRAM if known."""

    gpu_blocks: int
    tokens_per_second: float
    vram_mib: float | None = None


def read_split_rows(path: Path) -> list[SplitRow]:
    """Read two or more measured splits, sorted by GPU blocks.

    Raises UserInputError, naming the line, for a file that cannot be read, a missing or unknown
    column, a number that is none or out of range, fewer than two rows, or two rows for one split.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UserInputError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(content) > _LARGEST_FILE_BYTES:
        raise UserInputError(f"{path} is over 1 MiB; a row per measured split is expected.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserInputError(f"{path} is not UTF-8 text; a CSV file is expected.") from None
    return parse_split_rows(text, str(path))


def parse_split_rows(text: str, name: str) -> list[SplitRow]:
    """Parse the CSV text of file `name`; raises as `read_split_rows`."""
    reader = csv.reader(io.StringIO(text), strict=True)
    seen: dict[int, tuple[int, SplitRow]] = {}
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _columns(cells, name)
                continue
            line = reader.line_num
            row = _row(dict(_paired(columns, cells, f"{name} line {line}")), f"{name} line {line}")
            if row.gpu_blocks in seen:
                raise UserInputError(_clash(name, *seen[row.gpu_blocks], line, row))
            seen[row.gpu_blocks] = line, row
    except csv.Error as error:
        raise UserInputError(f"{name} line {reader.line_num} is not CSV: {error}.") from None
    if not columns:
        raise UserInputError(f"{name} is empty; expected the columns {listing(COLUMNS, 'and')}.")
    if len(seen) < 2:
        raise UserInputError(
            f"{name} has {len(seen) or 'no'} row{'s' if not seen else ''} of numbers; two splits"
            " with different gpu_blocks are needed to tell GPU from CPU."
        )
    return [seen[count][1] for count in sorted(seen)]


def _columns(cells: list[str], name: str) -> list[str]:
    columns = [cell.strip().casefold() for cell in cells]
    for column in columns:
        if column not in COLUMNS:
            raise UserInputError(
                f"{name}: column {shorten(column)} is unknown; {near_matches(column, COLUMNS)}"
            )
        if columns.count(column) > 1:
            raise UserInputError(f"{name}: column {column} is there twice; keep one of them.")
    missing = [column for column in REQUIRED_COLUMNS if column not in columns]
    if missing:
        raise UserInputError(
            f"{name} lacks the column {listing(missing, 'and')}; its first line must name"
            f" {listing(REQUIRED_COLUMNS, 'and')}, and vram_mib if it was measured."
        )
    return columns


def _paired(columns: list[str], cells: list[str], where: str) -> list[tuple[str, str]]:
    if len(cells) != len(columns):
        raise UserInputError(
            f"{where} has {len(cells)} values for the {len(columns)} columns"
            f" {listing(columns, 'and')}."
        )
    return [(column, cell.strip()) for column, cell in zip(columns, cells, strict=True)]


def _row(cells: dict[str, str], where: str) -> SplitRow:
    blocks = cells["gpu_blocks"]
    if not _WHOLE.fullmatch(blocks):
        raise UserInputError(
            f"{where}: gpu_blocks is {shorten(blocks)}; expected a whole number of blocks, 0 or"
            " more."
        )
    speed = _decimal(cells["tokens_per_second"])
    if speed is None or not 0 < speed <= _FASTEST:
        raise UserInputError(
            f"{where}: tokens_per_second is {shorten(cells['tokens_per_second'])}; expected a"
            " number above 0."
        )
    vram = None
    if cells.get("vram_mib"):
        vram = _decimal(cells["vram_mib"])
        if vram is None or vram > _LARGEST_MIB:
            raise UserInputError(
                f"{where}: vram_mib is {shorten(cells['vram_mib'])}; expected MiB of VRAM in use, 0"
                " or more, or nothing."
            )
    return SplitRow(int(blocks), speed, vram)


def _decimal(text: str) -> float | None:
    """A finite number that is not negative; None for anything else."""
    if not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _clash(name: str, first: int, one: SplitRow, second: int, other: SplitRow) -> str:
    where = f"{name} lines {first} and {second}"
    if one.tokens_per_second == other.tokens_per_second:
        return f"{where} repeat gpu_blocks {one.gpu_blocks}; keep one row for each count of blocks."
    return (
        f"{where} contradict each other: {one.tokens_per_second:g} and"
        f" {other.tokens_per_second:g} tok/s with gpu_blocks {one.gpu_blocks}; keep one row, such"
        " as the median of several runs."
    )
