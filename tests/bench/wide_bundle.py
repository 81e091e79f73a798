"""A bundle of full width and few blocks, with random weights: what benches measure on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from runtime.bundle import Bundle, open_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from scheduler.backend_names import Engine
from scheduler.plan import Precision
from tests.support.chatglm_checkpoint import Shape, config_for, write_tokenizer

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")


def wide_bundle(
    folder: Path,
    shape: Shape,
    engines: tuple[Engine, ...] = ("mnn",),
    precisions: tuple[Precision, ...] = PRECISIONS,
) -> Bundle:
    """Open the bundle in `folder`, or make it there first: 5 GB of files and minutes at width 4096.

    Its checkpoint is written beside it, fp16, one block in memory at a time.
    """
    if not folder.exists():
        checkpoint = folder.with_name(f"{folder.name}-checkpoint")
        write_wide_checkpoint(checkpoint, shape)
        export_bundle(
            ExportRequest(checkpoint, folder, precisions, jobs=1, name=folder.name, engines=engines)
        )
    return open_bundle(folder)


def write_wide_checkpoint(directory: Path, shape: Shape) -> None:
    """Write a random ChatGLM-6B checkpoint, a file per block."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    hidden, ffn = shape.hidden, 4 * shape.hidden
    files: dict[str, str] = {}

    def draw(*dims: int, scale: float) -> np.ndarray:
        values = random.standard_normal(dims, dtype=np.float32)
        values *= scale
        return values.astype(np.float16)

    def norm(name: str) -> dict[str, np.ndarray]:
        ones, zeros = np.ones(hidden, np.float16), np.zeros(hidden, np.float16)
        return {f"{name}.weight": ones, f"{name}.bias": zeros}

    def save(file: str, tensors: dict[str, np.ndarray]) -> None:
        save_file(tensors, directory / file)
        files.update(dict.fromkeys(tensors, file))

    for number in range(shape.blocks):
        prefix = f"transformer.layers.{number}."
        tensors = norm(f"{prefix}input_layernorm") | norm(f"{prefix}post_attention_layernorm")
        for name, rows, columns in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", ffn, hidden),
            ("mlp.dense_4h_to_h", hidden, ffn),
        ):
            tensors[f"{prefix}{name}.weight"] = draw(rows, columns, scale=columns**-0.5)
            tensors[f"{prefix}{name}.bias"] = draw(rows, scale=0.02)
        save(f"block-{number}.safetensors", tensors)
    embedding = draw(shape.vocab, hidden, scale=1.0)
    save("embedding.safetensors", {"transformer.word_embeddings.weight": embedding})
    head = {"lm_head.weight": draw(shape.vocab, hidden, scale=hidden**-0.5)}
    save("head.safetensors", head | norm("transformer.final_layernorm"))
    (directory / "config.json").write_text(json.dumps(config_for(shape)))
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(directory / "ice_text.model")
