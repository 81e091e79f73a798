"""A model larger than the free RAM, run by ONNX Runtime from weights that the kernel pages.

`python -m tests.bench.paged_run FOLDER` makes 28 fp32 blocks of ChatGLM-6B's width in FOLDER, each
in a file of its own (25 GiB of disk, checked before), and decodes some tokens with one stage on
`ort:cpu`. At fp32 such a stage reads its weights where the file is mapped, so that the system can
drop pages that do not fit and read them again; nothing is swapped. Prints tokens per second, major
faults, bytes read and resident memory, beside what the planner says of the plan.

`--limit 2GiB --blocks 4 --vocab 32768` shows the same at a smaller size: the run is put into a
memory cgroup of its own (version 1 or 2; needs the right to make one). Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import psutil

from runtime.bundle import Bundle, open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine, Generation
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.launch import check_ram, launches_of
from runtime.manifest import MANIFEST_NAME
from runtime.sampling import Sampling
from scheduler.errors import PlanError
from scheduler.model import ModelSpec, block_bytes, embedding_bytes, lm_head_bytes
from scheduler.planner import make_plan
from scheduler.probe import probe_host
from scheduler.profiles import load_model
from scheduler.request import PlanRequest
from scheduler.units import GIB, format_size, parse_size
from tests.bench.peer_shape import BLOCKS, HEADS, HIDDEN, MAX_CONTEXT, VOCAB
from tests.bench.wide_bundle import write_wide_checkpoint
from tests.support.chatglm_checkpoint import Shape

BACKEND = "ort:cpu"
SPARE_BYTES = GIB  # of disk, for manifest, tokenizer and whoever else writes
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_NAME = "glm-plan-paged-run"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--blocks", default=BLOCKS, show_default=True)
@click.option("--vocab", default=VOCAB, show_default=True, help="Rows of lm_head.")
@click.option("--context", default=64, show_default=True, help="Tokens of prompt and answer.")
@click.option("--prompt", default=8, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", default=4, show_default=True, help="To decode.")
@click.option("--limit", metavar="SIZE", help="Of memory, by a cgroup. [default: the machine's]")
@click.option("--keep", is_flag=True, help="Leave the bundle in FOLDER.")
def main(
    folder: Path,
    blocks: int,
    vocab: int,
    context: int,
    prompt: int,
    tokens: int,
    limit: str | None,
    keep: bool,
) -> None:
    """Make the bundle, run it, print what it took, and delete the bundle."""
    shape = Shape(HIDDEN, HEADS, blocks, vocab, MAX_CONTEXT)
    made = not (folder / "bundle").exists()
    bundle = distinct_blocks(folder, shape)
    try:
        forget_pages(bundle.path)
        size = None if limit is None else parse_size(limit, "--limit")
        under_limit(size, bundle.path, context, prompt, tokens)
    finally:
        if made and not keep:
            shutil.rmtree(folder)


def distinct_blocks(folder: Path, shape: Shape) -> Bundle:
    """The bundle in FOLDER/bundle, made there if missing: one random block, copied file by file.

    Each copy is a file, since links to one file would share its pages in memory and prove nothing.
    Ends the program where the disk is too small, with what is needed.
    """
    path = folder / "bundle"
    if path.exists():
        return open_bundle(path)
    spec = spec_of(shape)
    block = block_bytes(spec, "fp32")
    head, embedding = lm_head_bytes(spec, "fp32"), embedding_bytes(spec)
    # While one block is exported, there are its checkpoint (fp16) and its graph (fp32) as well.
    scratch = (block + head) // 2 + embedding + block + head
    rest = (shape.blocks - 1) * block
    needed = block + head + embedding + max(scratch, rest) + SPARE_BYTES
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    print(f"disk: {format_size(needed)} needed in {folder}, {format_size(free)} free", flush=True)
    if needed > free:
        raise SystemExit("The disk is too small; free some of it, or ask for fewer --blocks.")
    checkpoint = folder / "checkpoint"
    write_wide_checkpoint(
        checkpoint, Shape(shape.hidden, shape.heads, 1, shape.vocab, shape.max_context)
    )
    request = ExportRequest(checkpoint, path, ("fp32",), jobs=1, name="paged", engines=("ort",))
    export_bundle(request)
    shutil.rmtree(checkpoint)
    manifest = json.loads((path / MANIFEST_NAME).read_text("utf-8"))
    first, *others = manifest["parts"]
    manifest["geometry"]["blocks"] = shape.blocks
    manifest["parts"] = [_copied(path, first, number) for number in range(shape.blocks)] + others
    (path / MANIFEST_NAME).write_text(json.dumps(manifest), "utf-8")
    return open_bundle(path)


def _copied(bundle: Path, part: dict[str, object], number: int) -> dict[str, object]:
    """Block 0 of a manifest as another block, its files copied.

    The graph names its data file, so both lie under their names in a folder of their own.
    """
    text = json.dumps(part)
    if number == 0:
        return part
    copied: dict[str, object] = json.loads(text)
    copied["name"] = f"block_{number}"
    for variant in copied["variants"]:  # type: ignore[attr-defined]
        for file in variant["files"]:
            source = bundle / file["path"]
            file["path"] = f"copy-{number}/{source.name}"
            target = bundle / file["path"]
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    return copied


def spec_of(shape: Shape) -> ModelSpec:
    """ChatGLM-6B with these blocks and this vocabulary."""
    return replace(load_model("chatglm-6b"), blocks=shape.blocks, vocab_size=shape.vocab)


def under_limit(limit_bytes: int | None, *arguments: Any) -> None:
    """Measure in a process of its own, which joins a memory cgroup of this size first."""
    group = cgroup(limit_bytes) if limit_bytes else None
    child = get_context("spawn").Process(target=_joined, args=(group, *arguments))
    child.start()
    child.join()
    if group is not None:
        with contextlib.suppress(OSError):  # something in it is still ending
            group.rmdir()
    if child.exitcode:
        raise SystemExit(f"The run ended with exit code {child.exitcode}.")


def cgroup(limit_bytes: int) -> Path:
    """Make a memory cgroup of this size; its folder."""
    version1 = CGROUPS / "memory"
    parent = version1 if version1.is_dir() else CGROUPS
    knob = "memory.limit_in_bytes" if version1.is_dir() else "memory.max"
    group = parent / CGROUP_NAME
    try:
        group.mkdir(exist_ok=True)
        (group / knob).write_text(str(limit_bytes))
    except OSError as error:
        raise SystemExit(f"--limit needs a memory cgroup of its own: {error}.") from None
    return group


def _joined(group: Path | None, folder: Path, context: int, prompt: int, tokens: int) -> None:
    if group is not None:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    measure(open_bundle(folder), context, prompt, tokens)


def forget_pages(folder: Path) -> None:
    """Let the system drop what it holds of these files, so that a run reads them from disk."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            opened = os.open(file, os.O_RDONLY)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(opened)


def measure(bundle: Bundle, context: int, prompt: int, tokens: int) -> None:
    """Run the bundle whatever the planner says, and print both."""
    spec, host = spec_of_bundle(bundle), probe_host()
    plan = make_plan(
        PlanRequest(spec, cpu_precision="fp32", context=context, cpu_backend=BACKEND), host
    )
    launches = launches_of(plan, bundle, frozenset({BACKEND}), {}, host.cpu.usable_cores)
    memory = plan.stages[0].memory
    held = memory.weights_bytes + memory.lm_head_bytes
    print(
        f"plan (estimated): {format_size(plan.ram.needed_bytes)} of RAM, of which"
        f" {format_size(held)} are weights; {format_size(host.cpu.available_bytes)} available"
    )
    try:
        check_ram(plan, spec, launches, host.cpu.available_bytes)
        print("verdict: fits")
    except PlanError as error:
        print(f"verdict: {error}")
    began = time.perf_counter()
    generation = Generation()
    sampling = Sampling(logit_bias=tuple((end, -100.0) for end in bundle.manifest.end_ids))
    ids = [7 + number % 50 for number in range(prompt)]
    with Engine(bundle, launches, context) as engine:
        print(f"loaded in {time.perf_counter() - began:.1f} s", flush=True)
        (pid,) = engine.pipeline.process_ids
        before = counters(pid)
        print("| token | seconds | major faults | read GiB | anonymous GiB | file GiB |")
        print("| --- " * 6 + "|", flush=True)
        began = time.perf_counter()
        seconds = []
        for number, _ in enumerate(engine.generate(ids, sampling, tokens + 1, generation)):
            now = counters(pid)
            passed = time.perf_counter() - began
            seconds.append(passed)
            cells = [
                f"{passed:.2f}",
                f"{now['faults'] - before['faults']:,}",
                *(f"{one / GIB:.2f}" for one in (now["read"] - before["read"], now["anonymous"])),
                f"{now['file'] / GIB:.2f}",
            ]
            name = f"{number}" if number else f"prompt of {prompt}"
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            before, began = now, time.perf_counter()
        rate = tokens / sum(seconds[1:])
        print(f"decode: {rate:.4f} tok/s (measured), {tokens} tokens after the first")
        swapped = psutil.swap_memory().used
        print(f"swap in use: {format_size(swapped)}; no process was killed", flush=True)


def counters(pid: int) -> dict[str, int]:
    """Major faults, bytes read from disk, and resident bytes by kind, of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "faults": int(fields[9]),
        "read": int(io["read_bytes"]),
        "anonymous": 1024 * int(status["RssAnon"].split()[0]),
        "file": 1024 * int(status["RssFile"].split()[0]),
    }


if __name__ == "__main__":
    if not sys.platform.startswith("linux"):
        raise SystemExit("This bench reads /proc: Linux only.")
    main()
