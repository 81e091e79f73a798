"""The terminal view of a plan: the formula, a map of the blocks, memory per stage, and advice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.cli.speed_view import speed_lines
from scheduler.plan import Plan, Stage
from scheduler.units import GIB, MIB, format_size

_MAP_COLUMNS = 60
_GPU_STYLES = ("green", "cyan", "magenta", "blue")
_CPU_STYLE = "yellow"


@dataclass(frozen=True)
class Ink:
    """How a device is drawn: a character that tells it apart without colour, and a colour."""

    mark: str
    style: str


def show(plan: Plan, before: str | None = None) -> None:
    """Print a plan to stdout; `before` is the command that the plan's own needs run first."""
    console = Console(highlight=False, markup=False)
    inks = inks_of(plan, console.encoding)
    console.print(Text(headline(plan), style="bold"), soft_wrap=True)
    console.print(labelled(formula_lines(plan)))
    console.print()
    for line in map_lines(plan, inks):
        console.print(line)
    console.print(_legend(plan, inks))
    console.print()
    console.print(_memory_table(plan))
    console.print(labelled([("RAM", ram_line(plan))]))
    if plan.speed is not None:
        console.print()
        console.print(labelled(speed_lines(plan.speed)))
    console.print()
    if plan.explanation:
        console.print(labelled([("why", sentence) for sentence in plan.explanation]))
        console.print()
    advice = [("warning", sentence) for sentence in plan.warnings]
    console.print(labelled(advice + [("note", sentence) for sentence in plan.notes]))
    if plan.command:
        console.print()
        console.print(Text("  run it", style="dim"))
        if before is not None:
            console.print(f"  {before}", soft_wrap=True)
        console.print(f"  {plan.command}", soft_wrap=True)


def headline(plan: Plan) -> str:
    """One line with the answer: ``chatglm-6b: 23 of 28 blocks on the GPU, 5 on the CPU``."""
    total = plan.gpu_blocks + plan.cpu_blocks
    gpus = sum(stage.device != "cpu" for stage in plan.stages)
    where = "the GPU" if gpus <= 1 else f"{gpus} GPUs"
    hand = " (set by hand)" if plan.decision.get("set_by") == "hand" else ""
    return (
        f"{plan.model}: {plan.gpu_blocks} of {total} blocks on {where}, {plan.cpu_blocks} on the"
        f" CPU{hand}"
    )


def formula_lines(plan: Plan) -> list[tuple[str, str]]:
    """The rule with its numbers, one line per GPU, and where the numbers come from."""
    decision = plan.decision
    if plan.policy == "fit":
        return [("fit", decision["text"]), ("free", _origins(plan))]
    lines = [("rule", text) for text in str(decision["text"]).split("; ")]
    if not decision["gpus"]:
        return lines
    lines.append(("free", _origins(plan)))
    if decision["reserve_source"] == decision["block_source"]:
        return [*lines, ("source", decision["block_source"])]
    return [
        *lines,
        ("reserve", decision["reserve_source"]),
        ("block", decision["block_source"]),
    ]


def _origins(plan: Plan) -> str:
    """Where the free memory comes from: of the GPUs, and under `fit` of the RAM too."""
    found = {gpu["free_provenance"] or "unknown" for gpu in plan.decision["gpus"]}
    if plan.policy == "fit":
        found.add(plan.ram.available_provenance or "unknown")
    return " and ".join(sorted(found))


def inks_of(plan: Plan, encoding: str) -> dict[str, Ink]:
    """Give every device of the plan a mark and a colour; ASCII marks where output needs them."""
    gpus = [stage.device for stage in plan.stages if stage.device != "cpu"]
    try:
        "█▓▒░".encode(encoding)
        gpu_marks, cpu_mark = "█▓▒", "░"
    except (UnicodeEncodeError, LookupError):
        gpu_marks, cpu_mark = "#=+", "."
    if len(gpus) > len(gpu_marks):
        gpu_marks = "0123456789abcdefghijklmnopqrstuvwxyz"
    inks = {
        name: Ink(gpu_marks[i % len(gpu_marks)], _GPU_STYLES[i % len(_GPU_STYLES)])
        for i, name in enumerate(gpus)
    }
    return inks | {"cpu": Ink(cpu_mark, _CPU_STYLE)}


def map_lines(plan: Plan, inks: dict[str, Ink]) -> list[Text]:
    """Draw one cell per block, in order, with the first and last number of each line."""
    devices = [stage.device for stage in plan.stages for _ in stage.blocks]
    cell = 2 if len(devices) * 2 <= _MAP_COLUMNS else 1
    lines = []
    for start in range(0, len(devices), _MAP_COLUMNS // cell):
        row = devices[start : start + _MAP_COLUMNS // cell]
        line = Text(f"  {start:>6}  ", style="dim")
        for device, run in groupby(row):
            line.append(
                inks[device].mark * cell * len(list(run)), style=f"not dim {inks[device].style}"
            )
        line.append(f"  {start + len(row) - 1}")
        lines.append(line)
    return lines


def _legend(plan: Plan, inks: dict[str, Ink]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    grid.add_column()
    for stage in plan.stages:
        ink = inks[stage.device]
        grid.add_row(
            Text(f"  {stage.device:>6}"),
            Text(ink.mark * 2, style=ink.style),
            Text(block_span(stage)),
            Text(stage.backend),
            Text(_parts(stage)),
        )
    size = format_size(plan.embedding_bytes)
    grid.add_row(Text("    disk"), "", "embedding", "mapped", Text(f"bf16, {size} (estimated)"))
    return grid


def block_span(stage: Stage) -> str:
    """The blocks of a stage in words: ``blocks 0-22``."""
    if stage.first_block is None:
        return "no blocks"
    if stage.first_block == stage.last_block:
        return f"block {stage.first_block}"
    return f"blocks {stage.first_block}-{stage.last_block}"


def _parts(stage: Stage) -> str:
    if not stage.lm_head:
        return stage.precision
    if not stage.blocks:
        return f"lm_head {stage.lm_head_precision}"
    return f"{stage.precision}, and lm_head {stage.lm_head_precision}"


def _memory_table(plan: Plan) -> Table:
    """Memory of each stage in one unit; columns that are empty everywhere stay out."""
    largest = max(stage.memory.total_bytes for stage in plan.stages)
    unit, unit_bytes = ("GiB", GIB) if largest >= GIB else ("MiB", MIB)
    table = Table(
        box=None,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        header_style="dim",
        title=f"  {unit}, estimated; free memory as labelled",
        title_justify="left",
        title_style="dim",
    )
    table.add_column("")
    for title in ("weights", "lm_head", "KV cache", "workspace", "runtime", "needed", "free"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style="dim")

    def amount(size_bytes: int) -> str:
        return f"{size_bytes / unit_bytes:.2f}" if size_bytes else "-"

    for stage in plan.stages:
        memory = stage.memory
        over = stage.free_bytes is not None and memory.total_bytes > stage.free_bytes
        table.add_row(
            f"  {stage.device:>6}",
            amount(memory.weights_bytes),
            amount(memory.lm_head_bytes),
            amount(memory.kv_cache_bytes),
            amount(memory.workspace_bytes),
            amount(memory.runtime_bytes),
            Text(amount(memory.total_bytes), style="bold red" if over else "bold"),
            "unknown" if stage.free_bytes is None else f"{stage.free_bytes / unit_bytes:.2f}",
            stage.free_provenance or "",
        )
    return table


def ram_line(plan: Plan) -> str:
    """RAM needed by all processes together, and what there is."""
    ram = plan.ram
    available = "an unknown amount is available"
    if ram.available_bytes is not None:
        available = f"{format_size(ram.available_bytes)} available ({ram.available_provenance})"
    return f"{format_size(ram.needed_bytes)} for all processes ({ram.provenance}), {available}"


def labelled(lines: list[tuple[str, str]]) -> Table:
    """Sentences that wrap beside their label, on any width."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for label, sentence in lines:
        style = "bold red" if label == "warning" else "dim"
        grid.add_row(Text(f"  {label}", style=style), Text(sentence))
    return grid
