"""The NumPy decoder block against transformers' own layers, in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.export.decoder_config import DecoderConfig
from runtime.rotary import Rotary
from tests.reference import decoder_numpy as reference

HIDDEN, FFN, HEADS, KV_HEADS, DIM = 64, 96, 4, 2, 16
NAMES = {
    "input_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attention_output_norm": "post_self_attn_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "mlp_output_norm": "post_mlp_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def canonical(layer):
    stored = {name: value.numpy() for name, value in layer.state_dict().items()}
    if "mlp.gate_up_proj.weight" in stored:  # GLM keeps both in one matrix
        both = np.split(stored["mlp.gate_up_proj.weight"], 2)
        stored["mlp.gate_proj.weight"], stored["mlp.up_proj.weight"] = both
    return {
        f"blocks.0.{ours}.{kind}": stored[f"{theirs}.{kind}"]
        for ours, theirs in NAMES.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in stored
    }


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Glm", "Glm4"])
def test_a_block_is_that_of_transformers(family):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(3)
    settings = {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": 1}
    settings |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM}
    settings |= {"vocab_size": 32, "pad_token_id": 0, "attn_implementation": "eager"}
    glm = family.startswith("Glm")
    if glm:
        settings["attention_bias"] = True
    hf_config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}Model")(hf_config).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.3)
    seen = {}
    model.layers[0].register_forward_hook(lambda _, __, out: seen.update(y=out))
    x = torch.randn(1, 9, HIDDEN, dtype=torch.float64)
    model(inputs_embeds=x)
    y = seen["y"][0] if isinstance(seen["y"], tuple) else seen["y"]
    config = DecoderConfig(
        name=family,
        family=family.lower(),
        hidden_size=HIDDEN,
        ffn_size=FFN,
        blocks=1,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=DIM,
        vocab_size=32,
        max_context=64,
        norm="rms",
        norm_epsilon=hf_config.rms_norm_eps,
        activation="silu",
        gated_mlp=True,
        rotary=Rotary(
            "neighbours" if glm else "halves",
            DIM // 2 if glm else DIM,
            hf_config.rope_parameters["rope_theta"],
        ),
        stop_ids=(2,),
        qk_norm=family == "Qwen3",
        sandwich_norms=family == "Glm4",
    )
    found = reference.block(x[0].numpy(), canonical(model.layers[0]), config, 0)
    expected = y.reshape(9, HIDDEN).numpy()
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-6
