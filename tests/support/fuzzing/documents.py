"""Documents that users and other programs write: each one's reader, and valid ones."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tests.support.fuzzing.target import Prepared, through
from tests.support.tiny import REPOSITORY, TINY_BUNDLE

_CLUSTER = """driver = "desk"

[network]
bandwidth_gbit = 1
latency_ms = 0.3

[[host]]
name = "desk"
address = "10.0.0.5"
gpus = ["rtx 2080 ti"]
vram = [10.5]
cpu = "ryzen 9 3900x"
ram = 32
price_usd = 1500

[[host]]
name = "pc"
count = 3
vram = ["6GiB"]
ram = 16
cores = 4

[[link]]
between = ["pc", "desk"]
bandwidth_gbit = 2.5
latency_ms = 0.1
"""


def manifest(folder: Path) -> Prepared:
    from runtime.bundle import open_bundle
    from tests.support.bundles import write_bundle

    bundle = folder / "bundle"
    write_bundle(bundle, encodings=(("fp16", None), ("int4", 32)))
    path = bundle / "manifest.json"
    return through(path, lambda: open_bundle(bundle)), [
        path.read_bytes(),
        (TINY_BUNDLE / "manifest.json").read_bytes(),
    ]


def profile(folder: Path) -> Prepared:
    from scheduler.profile_files import read_profile
    from scheduler.profile_schema import DeviceFile, ModelFile

    path = folder / "profile.toml"
    seeds = [
        one.read_bytes() for one in sorted((REPOSITORY / "profiles" / "models").glob("*.toml"))
    ]
    devices = [
        one.read_bytes() for one in sorted((REPOSITORY / "profiles" / "devices").glob("*.toml"))
    ]

    def read() -> None:
        content = path.read_bytes()
        if b"[[" in content:
            file = read_profile(path, DeviceFile)
            _ = file.gpus(), file.cpus(), file.rams()
        else:
            read_profile(path, ModelFile).spec("name")

    return through(path, read), [*seeds, *devices]


def cluster(folder: Path) -> Prepared:
    from scheduler.cluster_file import read_cluster

    path = folder / "cluster.toml"
    return through(path, lambda: read_cluster(path)), [_CLUSTER.encode()]


def plan(folder: Path) -> Prepared:
    from scheduler.plan_file import plan_json, read_plan
    from scheduler.planner import make_plan
    from scheduler.profiles import load_model
    from scheduler.request import PlanRequest

    seeds = [
        plan_json(make_plan(PlanRequest(load_model(name), vram_bytes=vram, policy=policy))).encode()
        for name, vram, policy in (
            ("chatglm-6b", (11 << 30,), "reserve"),
            ("tiny-glm", (), "fit"),
            ("llama-2-7b", (6 << 30, 4 << 30), "fit"),
        )
    ]
    path = folder / "plan.json"
    return through(path, lambda: read_plan(path)), seeds


def hf_config(folder: Path) -> Prepared:
    from runtime.export.families.hf_config import read_decoder_config
    from scheduler.errors import GlmPlanError
    from scheduler.hf_config import read_hf_config
    from tests.support.chatglm_checkpoint import Shape, config_for
    from tests.support.llama_checkpoint import LLAMA, QWEN3

    path = folder / "config.json"
    rope = LLAMA | {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    }
    gemma = LLAMA | {"model_type": "gemma2", "head_dim": 16, "hidden_activation": "gelu"}

    def read() -> None:
        with contextlib.suppress(GlmPlanError):
            read_hf_config(path)
        read_decoder_config(folder)

    configs = [config_for(Shape()), LLAMA, QWEN3, rope, gemma]
    return through(path, read), [json.dumps(one).encode() for one in configs]


def measurements(folder: Path) -> Prepared:
    from scheduler.split_rows import read_split_rows

    path = folder / "measured.csv"
    rows = "gpu_blocks,tokens_per_second,vram_mib\n0,1.5,\n14,3.25,5400\n28,9.125,11000.5\n"
    return through(path, lambda: read_split_rows(path)), [
        rows.encode(),
        rows.replace(",", " , ").encode(),
        b'"gpu_blocks","tokens_per_second"\r\n"1","2e0"\r\n"3","4.5"\r\n',
    ]


def host_profile(folder: Path) -> Prepared:
    from scheduler.host_profile import (
        DeviceConstants,
        Evidence,
        HopConstants,
        HostProfile,
        WeightRate,
    )
    from scheduler.host_store import hosts_dir, load_host

    cpu = DeviceConstants(
        model_name="a processor",
        bandwidth_bytes_per_second=2e10,
        flops_per_second=1e11,
        block_overhead_seconds=1e-4,
        source="measured for this test",
        weights={"int4": WeightRate(bytes_per_second=1e10, extra_row_share=0.1)},
        rows_per_pass=4,
    )
    stored = HostProfile(
        name="here",
        made="2026-01-01T00:00:00Z",
        devices={"cpu": cpu, "gpu0": cpu},
        hop=HopConstants(latency_seconds=1e-5, bytes_per_second=1e9),
        evidence=[Evidence(what="a block", measured_seconds=0.1, predicted_seconds=0.2)],
        facts={"cores": 2},
    )
    path = hosts_dir() / "here.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return through(path, lambda: load_host("here")), [
        stored.model_dump_json(by_alias=True).encode()
    ]


def origin(folder: Path) -> Prepared:
    """What a pull wrote down, and an index of shards."""
    from runtime.export.shards import list_shards
    from runtime.model_store import models_dir, stored_model

    home = models_dir() / "mine"
    home.mkdir(parents=True, exist_ok=True)
    origin = {
        "schema": "glm-plan/origin/1",
        "repo": "a/b",
        "revision": None,
        "commit": "c" * 40,
        "complete": True,
        "files": [{"path": "config.json", "size_bytes": 3, "digest": None}],
    }
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    for name in index["weight_map"].values():
        (folder / name).write_bytes(b"1")

    def read(content: bytes) -> None:
        if b"weight_map" in content:
            (folder / "model.safetensors.index.json").write_bytes(content)
            list_shards(folder, "model.safetensors", "model.safetensors.index.json")
        else:
            (home / "origin.json").write_bytes(content)
            stored_model("mine")

    return read, [json.dumps(origin).encode(), json.dumps(index).encode()]
