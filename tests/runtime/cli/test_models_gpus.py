"""`glm-plan models` and `glm-plan gpus`, each in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def own_directory(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "devices").mkdir()
    return tmp_path


def run(
    *words: str, config: Path, width: int = 80, **others: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"GLM_PLAN_CONFIG_DIR": str(config), "COLUMNS": str(width)} | others,
        check=False,
    )


def document(*words: str, config: Path) -> dict[str, Any]:
    done = run(*words, "--json", config=config)
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout)
    assert isinstance(parsed, dict)
    return parsed


def test_models_sizes_and_where_they_come_from(own_directory: Path) -> None:
    done = run("models", "--sizes", config=own_directory)
    assert done.returncode == 0
    assert done.stderr == ""
    heading, *rows = done.stdout.splitlines()
    columns = "model family size blocks fp16 MiB int8 int4 KV KiB context"
    assert heading.split() == columns.split()
    table = {row.split()[0]: row.split()[1:] for row in rows}
    # 384.2, 192.3 and 102.2 MiB by hand: see tests/scheduler/test_model.py; 28 x 2 x 4096 x 4 bytes
    row = "chatglm 6.17 B 28 384.2 192.3 102.2 896.0 2,048"
    assert table["chatglm-6b"] == row.split()
    assert "Estimated" in rows[-1]


def test_models_table_shows_what_is_here_and_how_fast_it_is(own_directory: Path) -> None:
    done = run("models", config=own_directory)
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows, note = done.stdout.splitlines()
    assert heading.split() == ["model", "size", "blocks", "context", "tok/s", "at", "on", "disk"]
    table = {row.split()[0]: row.split() for row in rows}
    assert table["chatglm-6b"][1:5] == ["6.17", "B", "28", "2,048"]
    assert {"fp16", "checkpoint", "MiB,"} <= set(table["tiny-glm"])
    assert "estimated, by the fastest placement" in note


def test_models_on_disk_alone(own_directory: Path) -> None:
    names = {one["name"] for one in document("models", "--disk", config=own_directory)["models"]}
    assert "tiny-glm" in names
    assert "chatglm-6b" not in names
    done = run("models", "chatglm-6b", "--disk", config=own_directory)
    assert "None of them is on this disk" in done.stdout


def test_the_prediction_is_the_planners(own_directory: Path) -> None:
    (model,) = document("models", "tiny-glm", config=own_directory)["models"]
    assert model["on_disk"]["bundle"] == str(ROOT / "profiles" / "models" / "tiny-glm-bundle")
    assert model["on_disk"]["precisions"] == ["fp16"]
    done = run("plan", "--model", "tiny-glm", "--policy", "fit", "--json", config=own_directory)
    plan = json.loads(done.stdout)
    here = model["here"]
    assert here["decode_tokens_per_second"] == plan["speed"]["decode_tokens_per_second"]
    assert here["precision"] == [stage["precision"] for stage in plan["stages"]]
    assert (here["fits"], here["runnable"], here["provenance"]) == (True, True, "estimated")


def test_a_model_that_is_too_large_says_so(own_directory: Path) -> None:
    shipped = (ROOT / "profiles" / "models" / "qwen3-8b.toml").read_text(encoding="utf-8")
    huge = shipped.replace("hidden_size = 4096", "hidden_size = 131072").replace(
        "ffn_size = 12288", "ffn_size = 1048576"
    )
    (own_directory / "models" / "huge.toml").write_text(huge, encoding="utf-8")
    (model,) = document("models", "huge", config=own_directory)["models"]
    assert model["here"]["fits"] is False
    assert "GiB" in model["here"]["sentence"]
    assert "too large" in run("models", "huge", config=own_directory).stdout


def test_models_of_the_store_are_listed_and_a_damaged_one_is_named(
    own_directory: Path, tmp_path: Path
) -> None:
    models = tmp_path / "data" / "models"
    shutil.copytree(ROOT / "profiles" / "models" / "tiny-glm-bundle", models / "mine" / "bundle")
    (models / "bad" / "bundle").mkdir(parents=True)
    (models / "bad" / "bundle" / "manifest.json").write_text("{", encoding="ascii")
    (models / "empty").mkdir()
    (models / "half").mkdir()
    origin = '{"repo": "a/half", "revision": null, "commit": "c", "complete": false, "files": []}'
    (models / "half" / "origin.json").write_text(origin, encoding="ascii")
    done = run(
        "models", "--disk", "--json", config=own_directory, GLM_PLAN_DATA_DIR=str(models.parent)
    )
    parsed = json.loads(done.stdout)
    mine = next(one for one in parsed["models"] if one["name"] == "mine")
    assert (mine["blocks"], mine["on_disk"]["precisions"]) == (8, ["fp16"])
    assert [one["name"] for one in parsed["ungauged"]] == ["bad", "half"]
    assert [one["on_disk"]["interrupted"] for one in parsed["ungauged"]] == [False, True]
    assert done.stderr.startswith(f"bad: {models / 'bad' / 'bundle' / 'manifest.json'} is not JSON")


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_pipe_gets_whole_columns(own_directory: Path, width: int) -> None:
    done = run("gpus", "m4", "max", config=own_directory, width=width)
    assert "Apple M4 Max (40-core GPU) 128 GB" in done.stdout
    assert "…" not in done.stdout
    assert done.stdout == run("gpus", "m4", "max", config=own_directory).stdout


def test_models_json(own_directory: Path) -> None:
    parsed = document("models", "ChatGLM-6B", config=own_directory)
    assert parsed["schema"] == "glm-plan/models/1"
    (model,) = parsed["models"]
    assert model["name"] == "chatglm-6b"
    assert model["parameters"] == 6_173_286_400
    assert model["block_bytes"]["fp32"] == 4 * 201_379_840
    assert model["embedding_bytes"] == 2 * 130528 * 4096
    assert model["kv_bytes_per_token"] == 28 * model["block_kv_bytes_per_token"] == 917_504
    assert model["reserve_rule"]["reserve_bytes"] == 2 << 30
    assert model["provenance"] == {"geometry": "given", "sizes": "estimated"}


def test_models_search_takes_several_words(own_directory: Path) -> None:
    names = [m["name"] for m in document("models", "7b", "qwen", config=own_directory)["models"]]
    assert names == ["qwen2.5-7b"]


def test_gpus_json_cites_its_sources(own_directory: Path) -> None:
    parsed = document("gpus", "rtx", "2080", "ti", config=own_directory)
    assert parsed["schema"] == "glm-plan/gpus/1"
    (gpu,) = parsed["gpus"]
    assert gpu["name"] == "GeForce RTX 2080 Ti"
    assert gpu["memory_bytes"] == 11 << 30
    assert (gpu["bus_width_bits"], gpu["data_rate_gbps"], gpu["bandwidth_gbps"]) == (352, 14, 616)
    assert (gpu["pcie_generation"], gpu["pcie_lanes"]) == (3, 16)
    assert (gpu["release_year"], gpu["release_price_usd"]) == (2018, 999)
    assert gpu["sources"]["default"].startswith("https://www.techpowerup.com/gpu-specs/")
    assert "whitepaper" in gpu["sources"]["fp16_tflops"]
    assert gpu["provenance"] == "given"


def test_gpus_search_by_vendor_and_generation(own_directory: Path) -> None:
    gpus = document("gpus", "nvidia", "turing", config=own_directory)["gpus"]
    assert {gpu["generation"] for gpu in gpus} == {"Turing"}
    assert len(gpus) >= 15
    assert len(document("gpus", config=own_directory)["gpus"]) >= 60


def test_own_profiles_are_listed(own_directory: Path) -> None:
    shipped = (ROOT / "profiles" / "models" / "qwen3-8b.toml").read_text(encoding="utf-8")
    (own_directory / "models" / "mine.toml").write_text(shipped, encoding="utf-8")
    assert document("models", "mine", config=own_directory)["models"][0]["blocks"] == 36


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("models", "chatgml-6b"), "No model matches 'chatgml-6b'; did you mean chatglm-6b"),
        (("gpus", "rtx 2080 tii"), "No GPU matches 'rtx 2080 tii'; did you mean GeForce RTX 2080"),
        (("gpus", "zzz"), "leave TEXT out to list them all."),
    ],
)
def test_no_match_is_one_sentence(
    own_directory: Path, words: tuple[str, ...], expected: str
) -> None:
    done = run(*words, config=own_directory)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("glm-plan: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["models", "devices"])
def test_a_broken_own_file_is_named(own_directory: Path, kind: str) -> None:
    file = own_directory / kind / "broken.toml"
    file.write_text("[sources]\ndefault = 3\n", encoding="utf-8")
    done = run({"models": "models", "devices": "gpus"}[kind], config=own_directory)
    assert done.returncode == 2
    assert done.stderr.startswith(f"glm-plan: {file}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["models", "gpus"])
def test_listing_loads_neither_engines_nor_numpy(own_directory: Path, command: str) -> None:
    script = (
        "import sys; from runtime.cli.main import cli;"
        f" cli.main(['{command}', '--json'], standalone_mode=False);"
        " print([n for n in ('numpy', 'MNN', 'rich') if n in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr.strip() == "[]"


def test_help_names_both_commands(own_directory: Path) -> None:
    text = run("--help", config=own_directory).stdout
    assert "models" in text
    assert "gpus" in text
    for command in ("models", "gpus"):
        assert "--json" in run(command, "--help", config=own_directory).stdout
