"""Checkpoints that lie, lack or attack: the command says one sentence and leaves nothing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import torch_zip
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

SHAPE = Shape(hidden=32, heads=2, blocks=3, vocab=64)
LAST = "transformer.layers.2.mlp.dense_4h_to_h.weight"  # found only after other parts are made


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def code(folder):
    write_checkpoint(folder, SHAPE, layout="torch")
    content = pickle.dumps({"weight": Payload(folder.with_name("mark"))}, 2)
    torch_zip.write_zip(folder / "pytorch_model.bin", content, {})


def missing_shard(folder):
    write_checkpoint(folder, SHAPE, layout="torch", shards=3)
    max(folder.glob("pytorch_model-*.bin")).unlink()


def index_outside(folder):
    write_checkpoint(folder, SHAPE, shards=3)
    write_checkpoint(folder.with_name("other"), SHAPE)
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"][LAST] = "../other/model.safetensors"
    index.write_text(json.dumps(listed))


def wrong_shape(folder):
    change(folder, lambda weight: weight[:, :-1].copy())


def not_a_number(folder):
    def spoil(weight):
        weight[3, 4] = np.nan
        return weight

    change(folder, spoil)


def change(folder, how):
    write_checkpoint(folder, SHAPE)
    tensors = load_file(folder / "model.safetensors")
    tensors[LAST] = how(tensors[LAST])
    save_file(tensors, folder / "model.safetensors")


def empty_weights(folder):
    write_checkpoint(folder, SHAPE)
    (folder / "model.safetensors").write_bytes(b"")


def empty_archive(folder):
    write_checkpoint(folder, SHAPE, layout="torch")
    (folder / "pytorch_model.bin").write_bytes(b"")


def empty_config(folder):
    write_checkpoint(folder, SHAPE)
    (folder / "config.json").write_bytes(b"")


def truncated(folder):
    write_checkpoint(folder, SHAPE)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (code, "system"),
        (missing_shard, "pytorch_model-"),
        (index_outside, "../other/model.safetensors"),
        (wrong_shape, LAST),
        (not_a_number, LAST),
        (empty_weights, "model.safetensors"),
        (empty_archive, "pytorch_model.bin"),
        (empty_config, "config.json"),
        (truncated, "model.safetensors"),
    ],
)
def test_one_sentence_exit_code_2_and_nothing_left(tmp_path, harm, named):
    harm(tmp_path / "model")
    out = tmp_path / "bundles" / "b"
    words = [sys.executable, "-m", "runtime.cli", "export", tmp_path / "model", "--out", out]
    child = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 2, child.stderr
    assert child.stdout == ""
    said = child.stderr.strip()
    assert named in said
    assert said.endswith(".")
    assert len(said.splitlines()) == 1, said
    assert not (tmp_path / "mark").exists()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
