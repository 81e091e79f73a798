"""Perplexity of every encoding in a bundle on one text, through the same stage that answers.

`python -m tests.bench.perplexity BUNDLE [TEXT] [--reference MODEL.gguf]` cuts the text's tokens
into windows, runs each from an empty cache and scores every token but a window's first: exp of the
mean negative log-likelihood. With --reference, PyTorch and transformers score the same windows at
fp32 (not installed by glm-plan).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

from runtime.backends.mnn import MnnBackend
from runtime.bundle import Bundle, open_bundle, select_variant
from runtime.bundle_diff import encoding_name
from runtime.embedding import EmbeddingFile
from runtime.json_tokenizer import JsonTokenizer
from runtime.manifest import Variant
from runtime.stage import Stage, Step
from runtime.step_inputs import Row

TEXT = Path(__file__).parents[1] / "data" / "us_constitution.txt"
_HEAD_ROWS = 128  # logits of 49,152 tokens in fp32: 25 MB

Logits = Callable[[list[int]], Iterator[np.ndarray]]


def stage_logits(bundle: Bundle, variant: Variant, threads: int) -> Logits:
    """The logits of every position of a window, in pieces, with all blocks in this encoding.

    lm_head is what serves that precision, as in a run.
    """
    geometry, manifest = bundle.manifest.geometry, bundle.manifest
    backend = MnnBackend("cpu", threads, geometry.kv_heads, geometry.head_dim, variant.fine_scales)
    for part in manifest.parts[:-1]:
        alike = (one for one in part.variants if encoding_name(one) == encoding_name(variant))
        backend.load_block(bundle.file(next(alike).files[0]))
    head = select_variant(manifest, "lm_head", "mnn", variant.precision).variant
    backend.load_lm_head(bundle.file(head.files[0]))
    stage = Stage(backend, geometry.turning, geometry.max_context)
    embedding = EmbeddingFile(
        bundle.file(manifest.embedding.file),
        geometry.vocab_size,
        geometry.hidden_size,
        manifest.embedding.dtype,
    )

    def logits(ids: list[int]) -> Iterator[np.ndarray]:
        hidden = stage.forward(Step((Row(0),), len(ids)), embedding.lookup(ids)[None])[0]
        for start in range(0, len(ids), _HEAD_ROWS):
            yield np.array(backend.lm_head(hidden[start : start + _HEAD_ROWS]))

    return logits


def reference_logits(gguf: Path) -> Logits:
    """The same from transformers, which dequantises the file to fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )

    def logits(ids: list[int]) -> Iterator[np.ndarray]:
        with torch.no_grad():
            yield model(torch.tensor([ids])).logits[0].numpy()

    return logits


def perplexity(logits: Logits, ids: list[int], window: int) -> float:
    """Exp of the mean negative log-likelihood of all tokens that follow another in a window."""
    total, count = 0.0, 0
    for start in range(0, len(ids), window):
        piece = ids[start : start + window]
        if len(piece) < 2:
            break
        scores = np.concatenate(list(logits(piece)))[:-1].astype(np.float64)
        scores -= scores.max(-1, keepdims=True)
        likelihoods = scores[np.arange(len(piece) - 1), piece[1:]]
        total += float(np.sum(np.log(np.exp(scores).sum(-1)) - likelihoods))
        count += len(piece) - 1
    return math.exp(total / count)


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("text_path", metavar="[TEXT]", type=click.Path(path_type=Path), default=TEXT)
@click.option("--window", default=1024, show_default=True, help="Tokens of a window.")
@click.option("--threads", default=2, show_default=True)
@click.option("--reference", type=click.Path(path_type=Path), help="The GGUF file itself.")
def main(
    bundle_path: Path, text_path: Path, window: int, threads: int, reference: Path | None
) -> None:
    """Print a row per encoding of BUNDLE, as JSON lines."""
    bundle = open_bundle(bundle_path)
    ids = JsonTokenizer.of_bundle(bundle).encode(text_path.read_text(encoding="utf-8"))
    rows: list[tuple[str, Callable[[], Logits]]] = [
        (encoding_name(one), lambda one=one: stage_logits(bundle, one, threads))
        for one in bundle.manifest.parts[0].variants
    ]
    if reference is not None:
        rows.append(("transformers fp32", lambda: reference_logits(reference)))
    for name, load in rows:
        started = time.perf_counter()
        value = perplexity(load(), ids, window)
        seconds = time.perf_counter() - started
        row = {"encoding": name, "tokens": len(ids), "perplexity": value, "seconds": seconds}
        click.echo(json.dumps(row))


if __name__ == "__main__":
    main()
