"""Small bundles for tests that need no model inside: files with the right sizes and checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WIDTH, VOCABULARY = 64, 96


def add_file(bundle: Path, name: str, content: bytes) -> dict[str, Any]:
    """Write a file and return its manifest entry."""
    path = bundle / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {
        "path": name,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def write_bundle(
    bundle: Path,
    *,
    blocks: int = 2,
    encodings: tuple[tuple[str, int | None], ...] = (("fp16", None),),
    source_precision: str = "fp16",
) -> dict[str, Any]:
    """Write a bundle whose parts are not models, and return its manifest as written."""
    bundle.mkdir(parents=True)
    names = [f"block_{number}" for number in range(blocks)] + ["lm_head"]
    manifest = {
        "schema": "glm-plan/bundle/1",
        "model": "test",
        "geometry": {
            "family": "chatglm",
            "hidden_size": WIDTH,
            "ffn_size": 4 * WIDTH,
            "blocks": blocks,
            "heads": 4,
            "kv_heads": 4,
            "head_dim": WIDTH // 4,
            "vocab_size": VOCABULARY,
            "max_context": 256,
            "layernorm_epsilon": 1e-5,
        },
        "tokens": {"mask": 91, "gmask": 92, "bos": 94, "eos": 95, "pad": 3},
        "tokenizer": {"file": add_file(bundle, "tokenizer/ice_text.model", b"t"), "id_offset": 0},
        "embedding": {"file": add_file(bundle, "embedding.bf16", bytes(WIDTH * VOCABULARY * 2))},
        "parts": [
            {
                "name": name,
                "variants": [
                    {
                        "engine": "mnn",
                        "precision": precision,
                        "weight_block": block,
                        "stored": [],
                        "files": [
                            add_file(
                                bundle,
                                f"mnn-{precision}-{block}/{name}.mnn",
                                f"{name} {precision} {block}".encode(),
                            )
                        ],
                    }
                    for precision, block in encodings
                ],
            }
            for name in names
        ],
        "source_precision": source_precision,
        "source_sha256": "0" * 64,
        "made_by": {},
    }
    write_manifest(bundle, manifest)
    return manifest


def write_manifest(bundle: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest."""
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
