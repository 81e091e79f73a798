"""glm-plan beside chatglm.cpp and llama.cpp: the same shapes, the same machine, taking turns.

`python -m tests.bench.peers FOLDER --llama-python PYTHON --chatglm-python PYTHON` makes models of
ChatGLM-6B's 28 blocks with random int4 weights in FOLDER, each by its owner's own tools (9 GB
together; files that are there are used), loads all contenders into processes of their own (4 GB
each) and lets them do the same work in turn. A PYTHON that is not given leaves its contender
out; what it needs installed is written in `peer_llama` and `peer_chatglm`. Prints Markdown: medians
over rounds with the least and the most, ratios formed within each round, and what is unequal.
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
UNEQUAL = {
    "glm-plan": "keeps its cache in fp32 (twice the bytes of the peers'); int4 with a scale and an"
    " offset per 128 weights is 4.26 bits a weight, Q4_0 with a scale per 32 is 4.5; MNN's wheel"
    " has AVX2 kernels only, and ONNX Runtime's chooses by the processor.",
    "llama.cpp": "gptneox has no scaled residual and one rotation instead of two, which"
    " costs it a little less; its instruction sets are those listed.",
    "chatglm.cpp": "takes one request at a time; behind a long context it reads a cache that was"
    " never filled; built as its source distribution does unless told otherwise.",
}


@dataclass(frozen=True)
class Work:
    """A command to contenders, and the tokens that one of its times stands for."""

    title: str
    do: str
    fields: dict[str, int]
    tokens: int

    def rate(self, contender: Contender) -> float | None:
        """Tokens per second of the fastest step: the one that other work disturbed least.

        None where the contender does not offer it.
        """
        seconds = contender.ask(self.do, **self.fields)
        return self.tokens / min(seconds) if seconds else None

    def room(self, rounds: int) -> int:
        """Tokens of a context that all rounds fit into."""
        if "context" not in self.fields:
            return self.tokens + 1
        return 2 * WARM_UP_TOKENS + self.fields["context"] + (rounds + 1) * self.fields["tokens"]


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
            found.append(Work(f"{sequences} together at {context}", do, fields, sequences))
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
    """Print speeds of all contenders and the ratios of glm-plan's to its peers'."""
    todo = works(work, steps)
    folder.mkdir(parents=True, exist_ok=True)
    if bundle is None:
        engines = tuple({cast("Engine", one.partition(":")[0]): None for one in backends})
        name = "-".join(["bundle", precision, *(one for one in engines if one != "mnn")])
        bundle = repeated_bundle(folder / name, precision, engines)
    ours = {}
    for backend in backends:
        for count in slots:
            command = [sys.executable, "-m", "tests.bench.peer_ours", str(bundle)]
            command += ["--slots", str(count), "--backend", backend, "--precision", precision]
            command += ["--context", str(max(one.room(rounds) for one in todo))]
            ours[f"glm-plan {backend}, {count} slot{'s' * (count > 1)}"] = command
    peers = {}
    if llama_python:
        file = made_by_peer(llama_python, "peer_llama.py", folder / "gptneox-q4_0.gguf")
        command = [llama_python, str(HERE / "peer_llama.py"), "run", str(file)]
        if repacking != "off":
            peers["llama.cpp"] = command
        if repacking != "on":
            peers["llama.cpp, not repacked"] = [*command, "--no-repacking"]
    if chatglm_python:
        vocabulary = bundle / "tokenizer" / "ice_text.model"
        file = made_by_peer(
            chatglm_python, "peer_chatglm.py", folder / "chatglm-q4_0.bin", str(vocabulary)
        )
        peers["chatglm.cpp"] = [chatglm_python, str(HERE / "peer_chatglm.py"), "run", str(file)]
    compare(
        [started(*one) for one in ours.items()],
        [started(*one) for one in peers.items()],
        todo,
        rounds,
    )


def compare(ours: list[Contender], peers: list[Contender], todo: list[Work], rounds: int) -> None:
    """Let all contenders work in turn; print what they did."""
    contenders = [*ours, *peers]
    heading("tokens per second", [one.name for one in contenders])
    found = []
    for work in todo:
        rates = in_turn(work, contenders, rounds)
        row(work.title, [spread(values) for values in rates])
        found.append((work.title, rates))
    if peers:
        heading("ratio", [f"to {one.name}" for one in peers])
    for title, rates in found if peers else []:
        for contender, mine in zip(ours, rates, strict=False):
            theirs = rates[len(ours) :]
            if mine:
                row(f"{title}: {contender.name}", [spread(over(mine, one), "x") for one in theirs])
    print("\nUnequal:\n")
    for name, text in UNEQUAL.items():
        if any(one.name.startswith(name) for one in contenders):
            print(f"- {name} {text}")
    for contender in contenders:
        contender.close()


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


def over(ours: list[float], theirs: list[float]) -> list[float]:
    """Ratios of rates, round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def spread(values: list[float], unit: str = "") -> str:
    """Median, least and most; `–` where a contender does not offer that."""
    if not values:
        return "–"
    least, most = min(values), max(values)
    return f"{statistics.median(values):.2f}{unit} ({least:.2f}–{most:.2f})"


def heading(corner: str, columns: list[str]) -> None:
    """Print the head of a table."""
    print()
    row(corner, columns)
    print("| --- " * (len(columns) + 1) + "|")


def row(title: str, cells: list[str]) -> None:
    """Print a line of a table."""
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


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


if __name__ == "__main__":
    main()
