"""MNN's integer products against the article's float ones: the same files, drift and speed.

`python -m tests.bench.arithmetic BUNDLE` loads every encoding of a bundle twice: as glm-plan does
(activations quantised to int8, products of integers), and with weights dequantised for products of
floats, as in 2023. Both read one text; hidden states and logits are compared with the bundle's fp32
blocks, then decode steps are timed in turn.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import click
import numpy as np

from runtime.backends import mnn
from runtime.bundle import Bundle, open_bundle
from runtime.chat_format import chat_format_of
from runtime.embedding import EmbeddingFile
from runtime.export.check_reference import relative
from runtime.manifest import Variant
from runtime.stage import Stage, Step, finished
from runtime.step_inputs import Row

TEXT = "What is the capital of France? The capital of France is Paris. 法国的首都是巴黎。"
INTEGER, FLOAT = mnn._LOW_MEMORY, 0
ROUNDS, STEPS = 9, 40


@click.command()
@click.argument("bundle_dir", type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
def main(bundle_dir: Path, threads: int) -> None:
    """Print a Markdown table."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    bundle = open_bundle(bundle_dir)
    manifest = bundle.manifest
    ids = chat_format_of(bundle).tokenizer.encode(TEXT)
    embedding = EmbeddingFile(
        bundle.file(manifest.embedding.file),
        manifest.geometry.vocab_size,
        manifest.geometry.hidden_size,
        manifest.embedding.dtype,
    )
    hidden = embedding.lookup(ids)
    variants = manifest.parts[0].variants
    exact, logits = outputs(loaded(bundle, "fp32", INTEGER, threads), hidden)
    print(f"{len(ids)} tokens, {manifest.geometry.blocks} blocks\n", file=out)
    print("| weights | products | drift of hidden states | same next token | a step |", file=out)
    print("| --- | --- | --- | --- | --- |", file=out)
    for variant in variants:
        if variant.engine != "mnn" or variant.precision not in ("int8", "int4"):
            continue
        both = [loaded(bundle, variant.precision, kind, threads) for kind in (INTEGER, FLOAT)]
        times = in_turn([stage for stage, _ in both], hidden)
        for name, pair, taken in zip(("integers", "floats"), both, times, strict=True):
            found, scores = outputs(pair, hidden)
            agree = np.mean(scores.argmax(-1) == logits.argmax(-1))
            print(
                f"| {variant.precision} | {name} | {relative(found, exact):.1e} | {agree:.1%}"
                f" | {1000 * statistics.median(taken):.2f} ms"
                f" ({1000 * min(taken):.2f}–{1000 * max(taken):.2f}) |",
                file=out,
                flush=True,
            )


def loaded(
    bundle: Bundle, precision: str, memory: int, threads: int
) -> tuple[Stage, mnn.MnnBackend]:
    """All blocks and lm_head at this precision, with this mode of MNN's."""
    geometry = bundle.manifest.geometry
    mnn._LOW_MEMORY = memory
    backend = mnn.MnnBackend("cpu", threads, geometry.kv_heads, geometry.head_dim)
    mnn._LOW_MEMORY = INTEGER
    for part in bundle.manifest.parts:
        file = bundle.file(variant_of(part.variants, precision).files[0])
        (backend.load_lm_head if part.name == "lm_head" else backend.load_block)(file)
    return Stage(backend, geometry.turning, geometry.max_context), backend


def variant_of(variants: list[Variant], precision: str) -> Variant:
    """The first of this precision for MNN."""
    return next(one for one in variants if (one.engine, one.precision) == ("mnn", precision))


def outputs(pair: tuple[Stage, mnn.MnnBackend], hidden: np.ndarray) -> tuple[np.ndarray, ...]:
    """Hidden states and logits of every position, decoded one after another."""
    stage, backend = pair
    capacity = 64 * -(-len(hidden) // 64)
    stage.arrange(0, 1, capacity, [-1])
    states = np.empty_like(hidden)
    for position, one in enumerate(hidden):
        # Past tokens only, as in an answer; the first is read as a prompt of one.
        row = Row(position, 0, 0) if position else Row(0)
        if position:
            states[position] = stage.decode(0, [row], capacity, one[None])[0]
        else:
            states[0] = finished(stage.prefill(0, 0, row, one[None]))[0]
    return states, np.concatenate([np.array(backend.lm_head(one[None])) for one in states])


def in_turn(stages: list[Stage], hidden: np.ndarray) -> list[list[float]]:
    """Seconds of a decode step of each, by round."""
    times: list[list[float]] = [[] for _ in stages]
    for stage in stages:
        stage.forward(Step((Row(0),), 16), hidden[None, :16])
    for _ in range(ROUNDS):
        for stage, found in zip(stages, times, strict=True):
            stage.arrange(0, 1, 64, [0])
            began = time.perf_counter()
            for step in range(STEPS):
                stage.decode(0, [Row(16 + step, 15, 14)], 64, hidden[step % 16][None])
            found.append((time.perf_counter() - began) / STEPS)
    return times


if __name__ == "__main__":
    main()
