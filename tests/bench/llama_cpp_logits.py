"""Logits of one GGUF file by llama.cpp, by PyTorch at fp32 and by a bundle's encodings.

`python -m tests.bench.llama_cpp_logits BUNDLE MODEL.gguf --llama-python ENV/bin/python`, where ENV
has llama-cpp-python and NumPy. Every pair is compared over a prompt's positions: relative norm of
the difference (after taking each row's mean away, which softmax ignores) and equal first choices.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np

from runtime.bundle import open_bundle
from runtime.bundle_diff import encoding_name
from runtime.json_tokenizer import JsonTokenizer
from tests.bench.perplexity import TEXT, reference_logits, stage_logits

_LLAMA = """
import sys, json
import numpy as np
from llama_cpp import Llama
model, out = sys.argv[1:]
ids = json.load(sys.stdin)
llama = Llama(model, n_ctx=len(ids), n_batch=len(ids), logits_all=True, n_threads=2, verbose=False)
llama.eval(ids)
np.save(out, llama.scores[: len(ids)])
"""


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("gguf", metavar="MODEL.gguf", type=click.Path(path_type=Path))
@click.option("--llama-python", required=True, type=click.Path(path_type=Path))
@click.option("--tokens", default=256, show_default=True)
def main(bundle_path: Path, gguf: Path, llama_python: Path, tokens: int) -> None:
    """Print a row per pair."""
    bundle = open_bundle(bundle_path)
    ids = JsonTokenizer.of_bundle(bundle).encode(TEXT.read_text(encoding="utf-8"))[:tokens]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        subprocess.run(
            [llama_python, "-c", _LLAMA, gguf, out], input=str(ids), text=True, check=True
        )
        logits = {"llama.cpp": np.load(out)}
    logits["PyTorch fp32"] = np.concatenate(list(reference_logits(gguf)(ids)))
    for variant in bundle.manifest.parts[0].variants:
        pieces = stage_logits(bundle, variant, 2)(ids)
        logits[encoding_name(variant)] = np.concatenate(list(pieces))
    centred = {
        name: rows - rows.mean(-1, keepdims=True, dtype=np.float64) for name, rows in logits.items()
    }
    for first, second in itertools.combinations(centred, 2):
        ours, theirs = centred[first], centred[second]
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        same = np.mean(ours.argmax(-1) == theirs.argmax(-1))
        click.echo(f"{first} against {second}: {error:.2e}, same first choice {same:.1%}")


if __name__ == "__main__":
    main()
