"""How far an exported bundle is from its checkpoint: every part run by its engine and by NumPy.

The model reads one fixed text. Each part gets the hidden states that NumPy (fp32, the checkpoint's
own weights) has at that point, so errors don't add up; a second run through the engine alone shows
how they do. Both happen in a child process: MNN prints from C, and may fail with all its host.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from runtime.bundle import Bundle, Variant, open_bundle
from runtime.bundle_diff import encoding_name
from runtime.embedding import EmbeddingFile
from runtime.export.check_reference import PartReference, reference_of, relative
from runtime.export.model_source import ModelSource
from runtime.export.open_model import open_model
from runtime.export.request import OnProgress, Progress
from runtime.export.weights import Array
from runtime.json_tokenizer import JsonTokenizer
from runtime.tokenizer import Tokenizer
from scheduler.errors import EngineError

QUESTION = "法国的首都是哪里？ What is the capital of France?"
ANSWER = "法国的首都是巴黎。 The capital of France is Paris."

Chains = dict[str, Array]  # hidden states by encoding, as its engine alone computes them
_Run = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class PartCheck:
    """Relative errors (norm of the difference over norm) of a part in one encoding.

    ``errors`` names linear layers fed with the engine's own input (ChatGLM-6B's ``up`` behind its
    GELU, a gate behind its SiLU), keys, values and ``y``; for lm_head, logits. ``drift`` is that of
    the output when the engine ran all parts so far.
    """

    part: str
    encoding: str
    errors: dict[str, float]
    drift: float


@dataclass(frozen=True)
class CheckReport:
    """All parts, and the share of positions whose most likely token is that of the checkpoint."""

    tokens: int
    parts: list[PartCheck]
    same_top_token: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    checkpoint: Path
    bundle: Path
    part: str
    ids: list[int]
    reference: Array
    chains: Chains


@dataclass(frozen=True)
class _Result:
    reference: Array
    chains: Chains
    checks: list[PartCheck]


def check_bundle(
    checkpoint: Path, bundle_path: Path, on_progress: OnProgress = lambda _: None
) -> CheckReport:
    """Compare every variant of every part with the checkpoint that it came from.

    Raises what opening either raises, and EngineError when an engine fails or is missing.
    """
    bundle = open_bundle(bundle_path)
    ids = _token_ids(bundle)
    reference, chains = _embedded(open_model(checkpoint), bundle, ids)
    names = [part.name for part in bundle.manifest.parts]
    checks: list[PartCheck] = []
    context = multiprocessing.get_context("spawn")  # MNN's threads don't survive a fork
    with ProcessPoolExecutor(1, mp_context=context, initializer=_silence_stdout) as child:
        for number, name in enumerate(names):
            on_progress(Progress(f"check of {name}", number, len(names), 0))
            check = _check_lm_head if name == "lm_head" else _check_block
            task = _Task(checkpoint, bundle_path, name, ids, reference, chains)
            try:
                result = child.submit(check, task).result()
            except BrokenProcessPool as error:
                raise EngineError(
                    f"The process that checked {name} of {bundle_path} died; most likely memory"
                    " ran out."
                ) from error
            checks += result.checks
            reference, chains = result.reference, result.chains
    same = {
        encoding: float(np.mean(logits.argmax(-1) == reference.argmax(-1)))
        for encoding, logits in chains.items()
    }
    on_progress(Progress("check", len(names), len(names), 0))
    return CheckReport(len(ids), checks, same)


def _token_ids(bundle: Bundle) -> list[int]:
    """Question and answer, in ChatGLM-6B's form around them; cut to what the model can hold."""
    tokens = bundle.manifest.tokens
    if tokens is None:
        json_tokenizer = JsonTokenizer.of_bundle(bundle)
        begin = (bundle.manifest.tokenizer.bos or "") if bundle.manifest.tokenizer.add_bos else ""
        ids = json_tokenizer.encode_markup(f"{begin}{QUESTION} {ANSWER}")
        return ids[: bundle.manifest.geometry.max_context] or [0]
    tokenizer = Tokenizer.of_bundle(bundle)
    half = bundle.manifest.geometry.max_context // 2 - 2
    question, answer = tokenizer.encode(QUESTION)[:half], tokenizer.encode(ANSWER)[:half]
    return [*question, tokens.gmask, tokens.bos, *answer]


def _embedded(source: ModelSource, bundle: Bundle, ids: list[int]) -> tuple[Array, Chains]:
    manifest = bundle.manifest
    exact = np.concatenate([source.embedding_rows(token, token + 1) for token in ids])
    stored = EmbeddingFile(
        bundle.file(manifest.embedding.file),
        manifest.geometry.vocab_size,
        manifest.geometry.hidden_size,
        manifest.embedding.dtype,
    ).lookup(ids)
    return exact, {encoding_name(one): stored for one in manifest.parts[0].variants}


def _silence_stdout() -> None:
    # MNN prints to descriptor 1 from C, where a caller's JSON goes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _check_block(task: _Task) -> _Result:
    bundle, reference = _opened(task)
    number = int(task.part.removeprefix("block_"))
    expected = reference.block(task.reference, number)
    checks, outputs = [], {}
    for variant in _variants(bundle, task.part):
        encoding = encoding_name(variant)
        rows = [task.reference, task.chains[encoding]]
        traced = _run_block(bundle, variant, reference, rows)
        alone, chained = ({key: value[row] for key, value in traced.items()} for row in (0, 1))
        errors = reference.layer_errors(alone, number) | {
            "keys": relative(alone["new_k"], reference.keys_as_stored(expected.keys)),
            "values": relative(alone["new_v"], expected.values),
            "y": relative(alone["y"], expected.y),
        }
        outputs[encoding] = chained["y"]
        drift = relative(chained["y"], expected.y)
        checks.append(PartCheck(task.part, encoding, errors, drift))
    return _Result(expected.y, outputs, checks)


def _check_lm_head(task: _Task) -> _Result:
    bundle, reference = _opened(task)
    expected = reference.logits(task.reference)
    variants = {encoding_name(one): one for one in _variants(bundle, task.part)}
    checks, outputs = [], {}
    for encoding, variant in variants.items():
        run = _traced(bundle, variant, ["x"], ["logits"])
        logits = run(x=task.reference[:, None])["logits"][:, 0]
        errors = {"logits": relative(logits, expected)}
        # Blocks without an lm_head of their own encoding go on with the first one there is.
        first = encoding == next(iter(variants))
        for chain, hidden in task.chains.items():
            if chain == encoding or (first and chain not in variants):
                label = encoding if chain == encoding else f"{chain}, lm_head {encoding}"
                outputs[label] = run(x=hidden[:, None])["logits"][:, 0]
                drift = relative(outputs[label], expected)
                checks.append(PartCheck(task.part, label, errors, drift))
    return _Result(expected, outputs, checks)


def _variants(bundle: Bundle, name: str) -> list[Variant]:
    part = next(one for one in bundle.manifest.parts if one.name == name)
    return part.variants


def _opened(task: _Task) -> tuple[Bundle, PartReference]:
    bundle, source = _opened_files(task.bundle, task.checkpoint)
    manifest = bundle.manifest
    return bundle, reference_of(source, manifest.geometry, manifest.tokens, task.ids)


@lru_cache(maxsize=1)  # the child checks part after part
def _opened_files(bundle: Path, checkpoint: Path) -> tuple[Bundle, ModelSource]:
    return open_bundle(bundle), open_model(checkpoint)


def _run_block(
    bundle: Bundle, variant: Variant, reference: PartReference, rows: list[Array]
) -> dict[str, Array]:
    """Run hidden states as the rows of one batch; adds the values inside the block, by name."""
    inputs = reference.inputs(rows)
    outputs = ["y", "new_k", "new_v", *reference.inside]
    return _traced(bundle, variant, list(inputs), outputs)(**inputs)


def _traced(bundle: Bundle, variant: Variant, inputs: list[str], outputs: list[str]) -> _Run:
    """The part in this variant's engine, with these tensors of its graph as outputs."""
    path = bundle.file(variant.files[0])
    if variant.engine == "ort":
        if find_spec("onnxruntime") is None:
            raise EngineError(f"Checking {path} needs ONNX Runtime: pip install 'glm-plan[ort]'.")
        from runtime.backends.ort_trace import OrtTracedPart

        return OrtTracedPart(path, outputs, _threads())
    from runtime.backends.mnn_trace import TracedPart

    return TracedPart(path, inputs, outputs, _threads(), variant.fine_scales)


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
