"""Make small random ChatGLM-6B checkpoints on disk, in the layouts that were published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import sentencepiece
from safetensors.numpy import save_file

from tests.support import torch_zip

DTYPES = {"fp16": np.float16, "fp32": np.float32, "bf16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Shape:
    """Geometry of a test model; ``vocab`` must exceed 16 (special tokens take the last ids)."""

    hidden: int = 64
    heads: int = 4
    blocks: int = 2
    vocab: int = 96
    max_context: int = 256


def config_for(shape: Shape) -> dict[str, Any]:
    """A config.json as the published ones look, at another size."""
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "num_layers": shape.blocks,
        "hidden_size": shape.hidden,
        "inner_hidden_size": 4 * shape.hidden,
        "num_attention_heads": shape.heads,
        "layernorm_epsilon": 1e-05,
        "max_sequence_length": shape.max_context,
        "vocab_size": shape.vocab,
        "position_encoding_2d": True,
        "bos_token_id": shape.vocab - 2,
        "eos_token_id": shape.vocab - 1,
        "pad_token_id": 3,
        "mask_token_id": shape.vocab - 5,
        "gmask_token_id": shape.vocab - 4,
    }


def random_tensors(shape: Shape, seed: int = 0, tied: bool = False) -> dict[str, np.ndarray]:
    """All tensors by their published names, fp32, scaled so that hidden states stay near one."""
    rng = np.random.default_rng(seed)

    def draw(*dims: int, scale: float) -> np.ndarray:
        return (rng.standard_normal(dims) * scale).astype(np.float32)

    hidden, ffn = shape.hidden, 4 * shape.hidden
    tensors = {"transformer.word_embeddings.weight": draw(shape.vocab, hidden, scale=1.0)}
    norms = ["transformer.final_layernorm"]
    for number in range(shape.blocks):
        prefix = f"transformer.layers.{number}."
        norms += [prefix + "input_layernorm", prefix + "post_attention_layernorm"]
        for name, rows, columns in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", ffn, hidden),
            ("mlp.dense_4h_to_h", hidden, ffn),
        ):
            # Strong enough that attention and MLP matter beside the scaled residual.
            tensors[f"{prefix}{name}.weight"] = draw(rows, columns, scale=2.0 / columns**0.5)
            tensors[f"{prefix}{name}.bias"] = draw(rows, scale=0.2)
        tensors[prefix + "attention.rotary_emb.inv_freq"] = draw(
            hidden // shape.heads // 4, scale=1.0
        )
    for norm in norms:
        tensors[f"{norm}.weight"] = 1 + draw(hidden, scale=0.2)
        tensors[f"{norm}.bias"] = draw(hidden, scale=0.2)
    if not tied:
        tensors["lm_head.weight"] = draw(shape.vocab, hidden, scale=1.0 / hidden**0.5)
    return tensors


def write_checkpoint(
    directory: Path,
    shape: Shape = Shape(),
    *,
    precision: str = "fp16",
    seed: int = 0,
    shards: int = 1,
    tied: bool = False,
    layout: str = "safetensors",
    quantised_bits: int | None = None,
    config: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write a checkpoint and return its tensors as fp32, rounded to what was stored.

    ``layout`` is safetensors or torch; ``quantised_bits`` 4 or 8 packs the linear layers.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = tensors or random_tensors(shape, seed, tied)
    stored = {name: array.astype(DTYPES[precision]) for name, array in tensors.items()}
    expected = {name: array.astype(np.float32) for name, array in stored.items()}
    description = config_for(shape) | (config or {})
    if quantised_bits is not None:
        description["quantization_bit"] = quantised_bits
        for name in [one for one in stored if ".attention." in one or ".mlp." in one]:
            if stored[name].ndim == 2:
                packed, scale, expected[name] = quantise(expected[name], quantised_bits)
                stored[name], stored[f"{name}_scale"] = packed, scale
    (directory / "config.json").write_text(json.dumps(description))
    write_tokenizer(directory / "ice_text.model")
    single, save = _LAYOUTS[layout]
    if shards == 1:
        save(stored, directory / single)
    else:
        _write_shards(directory, stored, shards, layout)
    return expected


def quantise(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stored int8 bytes, fp16 scale per row, and the fp32 values that they stand for.

    As the published quantiser: symmetric per row, two int4 values per byte, the first one high.
    """
    largest = 2 ** (bits - 1) - 1
    scale = (np.abs(weight).max(axis=1) / largest).astype(np.float16)
    values = np.clip(np.round(weight / scale[:, None].astype(np.float32)), -largest, largest)
    expected = (values * scale[:, None].astype(np.float32)).astype(np.float32)
    whole = values.astype(np.int8)
    if bits == 8:
        return whole, scale, expected
    nibbles = whole.view(np.uint8) & 15
    packed = [[(high << 4) | low for high, low in row.reshape(-1, 2).tolist()] for row in nibbles]
    return np.array(packed, np.uint8).view(np.int8), scale, expected


def write_tokenizer(path: Path) -> None:
    """Train a tiny SentencePiece model; its contents don't matter to an export."""
    words = ["one two three four five", "six seven eight nine ten", "the quick brown fox"]
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words * 20),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            user_defined_symbols=["<n>", "<|tab|>"],
            minloglevel=2,
        )


def _write_shards(directory: Path, stored: dict[str, np.ndarray], shards: int, layout: str) -> None:
    names = list(stored)
    single, save = _LAYOUTS[layout]
    stem, ending = single.split(".")
    weight_map = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.{ending}"
        some = {name: stored[name] for name in names[number::shards]}
        save(some, directory / file)
        weight_map |= dict.fromkeys(some, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / f"{single}.index.json").write_text(json.dumps(index))


_LAYOUTS = {
    "safetensors": ("model.safetensors", save_file),
    "torch": ("pytorch_model.bin", lambda tensors, path: torch_zip.save(path, tensors)),
}
