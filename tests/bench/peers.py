"""glm-plan beside chatglm.cpp and llama.cpp: the same shapes, the same machine, taking turns.

`python -m tests.bench.peers FOLDER --llama-python PYTHON --chatglm-python PYTHON` makes models of
ChatGLM-6B's 28 blocks with random int4 weights in FOLDER, each by its owner's own tools (9 GB
together; files that are there are used), loads all contenders into processes of their own (4 GB
each) and lets them do the same work in turn. A PYTHON that is not given leaves its contender
out; what it needs installed is written in `peer_llama` and `peer_chatglm`. Prints Markdown: medians
over rounds with the least and the most, and ratios formed within each round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click

from scheduler.backend_names import Engine
from scheduler.plan import Precision
from tests.bench.peer_bundle import repeated_bundle
from tests.bench.peer_pipe import Contender

HERE = Path(__file__).parent
WARM_UP_TOKENS = 4  # steps, or the tokens of a prompt


@dataclass(frozen=True)
class Work:
    """A command to contenders, and the tokens that one of its times stands for."""

    title: str
    do: str
    fields: dict[str, int]
    tokens: int

    def rate(self, contender: Contender) -> float | None:
        """Tokens per second: of the median step; the first one finds cold caches and is left out.

        None where the contender does not offer it.
        """
        seconds = contender.ask(self.do, **self.fields)
        return self.tokens / statistics.median(seconds[1:] or seconds) if seconds else None


def works(names: str, steps: int) -> list[Work]:
    """`decode:16,prefill:128,batch:4x64` as commands."""
    found = []
    for name in names.split(","):
        do, _, sizes = name.partition(":")
        if do == "prefill":
            tokens = int(sizes)
            found.append(Work(f"prefill of {tokens}", do, {"tokens": tokens}, tokens))
        elif do == "decode":
            fields = {"context": int(sizes), "tokens": steps + 1}
            found.append(Work(f"decode at {sizes}", do, fields, 1))
        elif do == "batch":
            sequences, context = map(int, sizes.split("x"))
            fields = {"context": context, "tokens": steps + 1, "sequences": sequences}
            found.append(Work(f"{sequences} requests at {context}", do, fields, sequences))
        else:
            raise click.UsageError(f"{name!r} is no work; expected decode, prefill or batch")
    return found


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--llama-python", type=click.Path(exists=True), help="Has llama-cpp-python and gguf.")
@click.option("--chatglm-python", type=click.Path(exists=True), help="Has chatglm-cpp.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Of glm-plan; made if not given.")
@click.option("--backend", "backends", default=("mnn:cpu",), multiple=True, show_default=True)
@click.option("--precision", default="int4", show_default=True, help="Of glm-plan's weights.")
@click.option("--slots", multiple=True, default=(1,), show_default=True, help="An engine for each.")
@click.option("--repacking", type=click.Choice(["on", "off", "both"]), default="on")
@click.option("--work", default="decode:16,decode:1024,prefill:128,prefill:512,batch:4x64")
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=12, show_default=True, help="Timed in each round of a decode.")
def main(
    folder: Path,
    llama_python: str | None,
    chatglm_python: str | None,
    bundle: Path | None,
    backends: tuple[str, ...],
    precision: Precision,
    slots: tuple[int, ...],
    repacking: str,
    work: str,
    rounds: int,
    steps: int,
) -> None:
    """Print speeds of all contenders and their ratios to glm-plan's first engine."""
    todo = works(work, steps)
    folder.mkdir(parents=True, exist_ok=True)
    if bundle is None:
        engines = tuple({cast("Engine", one.partition(":")[0]): None for one in backends})
        bundle = repeated_bundle(folder / f"bundle-{precision}", precision, engines)
    longest = max(
        one.fields.get("context", 0) + one.fields["tokens"] * (rounds + 2) for one in todo
    )
    commands = {}
    for backend in backends:
        for count in slots:
            command = [sys.executable, "-m", "tests.bench.peer_ours", str(bundle)]
            command += ["--slots", str(count), "--backend", backend, "--context", str(longest)]
            command += ["--precision", precision]
            commands[f"glm-plan {backend}, {count} slot{'s' * (count > 1)}"] = command
    if llama_python:
        file = made_by_peer(llama_python, "peer_llama.py", folder / "gptneox-q4_0.gguf")
        command = [llama_python, str(HERE / "peer_llama.py"), "run", str(file)]
        if repacking != "off":
            commands["llama.cpp"] = command
        if repacking != "on":
            commands["llama.cpp, not repacked"] = [*command, "--no-repacking"]
    if chatglm_python:
        vocabulary = bundle / "tokenizer" / "ice_text.model"
        file = made_by_peer(
            chatglm_python, "peer_chatglm.py", folder / "chatglm-q4_0.bin", str(vocabulary)
        )
        commands["chatglm.cpp"] = [chatglm_python, str(HERE / "peer_chatglm.py"), "run", str(file)]
    contenders = [started(name, command) for name, command in commands.items()]
    print()
    heading("tokens per second", list(commands))
    found = []
    for one in todo:
        rates = in_turn(one, contenders, rounds)
        row(one.title, [spread(values) for values in rates])
        found.append((one, rates))
    print()
    mine = len(backends) * len(slots)
    heading("ratio", [f"to {name}" for name in list(commands)[mine:]])
    for one, rates in found:
        for contender, ours in zip(contenders[:mine], rates, strict=False):
            cells = [spread(over(ours, theirs), "x") for theirs in rates[mine:]]
            row(f"{one.title}: {contender.name}", cells)
    for contender in contenders:
        contender.close()


def over(ours: list[float], theirs: list[float]) -> list[float]:
    """Ratios of rates, round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def heading(corner: str, columns: list[str]) -> None:
    """Print the head of a table."""
    row(corner, columns)
    print("| --- " * (len(columns) + 1) + "|")


def row(title: str, cells: list[str]) -> None:
    """Print a line of a table."""
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def in_turn(work: Work, contenders: list[Contender], rounds: int) -> list[list[float]]:
    """Rates of each contender in each round, after warming up; empty: not offered."""
    for contender in contenders:
        contender.ask(work.do, **(work.fields | {"tokens": WARM_UP_TOKENS}))
    rates: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, found in zip(contenders, rates, strict=True):
            rate = work.rate(contender)
            if rate is not None:
                found.append(rate)
                click.echo(f"{work.title}, {contender.name}: {rate:.3f}", err=True)
    return rates


def started(name: str, command: list[str]) -> Contender:
    """Start a contender, and print what it is."""
    contender = Contender(name, command)
    print(f"- {name}: {contender.about}; loaded in {contender.load_seconds:.1f} s", flush=True)
    return contender


def made_by_peer(python: str, script: str, file: Path, *words: str) -> Path:
    """The peer's model, written by its own tools unless it is there."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        subprocess.run([python, str(HERE / script), "write", str(partial), *words], check=True)
        partial.rename(file)
    return file


def spread(values: list[float], unit: str = "") -> str:
    """Median, least and most; `–` where a contender does not offer that."""
    if not values:
        return "–"
    least, most = min(values), max(values)
    return f"{statistics.median(values):.2f}{unit} ({least:.2f}–{most:.2f})"


if __name__ == "__main__":
    main()
