"""Every family, from the files that transformers writes to hidden states, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine, Generation
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.launch import launches_of
from runtime.sampling import Sampling
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.support.block_runs import random_texts, require_same_states
from tests.support.decoder_models import MODELS, block_outputs, make_model, save_model

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("transformers", reason="needs transformers")


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_of_prefill_and_decode_of_three_texts_together(
    name: str, tmp_path: Path
) -> None:
    model: Any = make_model(name)
    save_model(model, tmp_path / "checkpoint")
    export_bundle(ExportRequest(tmp_path / "checkpoint", tmp_path / "bundle", ("fp32",)))
    texts = random_texts(model.config.vocab_size)
    states, logits = zip(*(block_outputs(model, ids) for ids in texts), strict=True)
    require_same_states(open_bundle(tmp_path / "bundle"), texts, list(states), list(logits))


@pytest.mark.parametrize("name", ["llama, tied, three heads on one", "qwen3"])
def test_greedy_tokens_through_two_stages_are_those_of_generate(name: str, tmp_path: Path) -> None:
    model: Any = make_model(name, num_hidden_layers=3)
    save_model(model, tmp_path / "checkpoint", max_shard_size="20KB")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 2
    export_bundle(ExportRequest(tmp_path / "checkpoint", tmp_path / "bundle", ("fp32",)))
    bundle = open_bundle(tmp_path / "bundle", verify=True)
    assert bundle.manifest.stop_ids == [2]
    plan = make_plan(
        PlanRequest(
            spec_of_bundle(bundle),
            vram_bytes=(1 << 33,),
            gpu_blocks=1,
            gpu_precision="fp32",
            cpu_precision="fp32",
            context=128,
        )
    )
    launches = launches_of(plan, bundle, frozenset({"mnn:cpu"}), {}, 1)
    with Engine(bundle, launches, 128) as engine:
        for prompt in random_texts(96)[:2]:
            generation = Generation()
            found = list(engine.generate(prompt, Sampling(), 24, generation))
            with torch.no_grad():
                answer = model.generate(
                    torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=0
                )[0, len(prompt) :].tolist()
            assert found == [token for token in answer if token != 2]
            assert len(found) == 24 or generation.finish_reason == "stop"
