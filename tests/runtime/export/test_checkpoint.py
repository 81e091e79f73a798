"""Reading checkpoints: every layout gives the same numbers, every damage one sentence."""

from __future__ import annotations

import json
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from runtime.export.checkpoint import Checkpoint, expected_shapes
from runtime.export.weights import bfloat16_bits
from scheduler.errors import CheckpointError
from tests.support.chatglm_checkpoint import Shape, quantise, write_checkpoint

SHAPE = Shape(hidden=32, heads=2, blocks=2, vocab=64)


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "checkpoint"
    write_checkpoint(path, SHAPE)
    return path


def read_everything(directory):
    checkpoint = Checkpoint(directory)
    for number in range(checkpoint.config.num_layers):
        checkpoint.block(number)
    checkpoint.head()
    checkpoint.embedding_rows(0, checkpoint.config.vocab_size)


def refusal(directory):
    with pytest.raises(CheckpointError) as caught:
        read_everything(directory)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def edit_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("layout", ["safetensors", "torch"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("precision", "bits", "named"),
    [
        ("fp16", None, "fp16"),
        ("bf16", None, "bf16"),
        ("fp32", None, "fp32"),
        ("fp16", 8, "int8"),
        ("fp16", 4, "int4"),
    ],
)
def test_every_value_arrives(tmp_path, layout, shards, precision, bits, named):
    tensors = write_checkpoint(
        tmp_path / "c",
        SHAPE,
        layout=layout,
        shards=shards,
        precision=precision,
        quantised_bits=bits,
    )
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.source_precision == named
    assert not checkpoint.tied
    for number in range(SHAPE.blocks):
        block = checkpoint.block(number)
        for part, name in (
            (block.input_norm, "input_layernorm"),
            (block.query_key_value, "attention.query_key_value"),
            (block.dense, "attention.dense"),
            (block.post_attention_norm, "post_attention_layernorm"),
            (block.up, "mlp.dense_h_to_4h"),
            (block.down, "mlp.dense_4h_to_h"),
        ):
            prefix = f"transformer.layers.{number}.{name}"
            np.testing.assert_array_equal(part.weight, tensors[f"{prefix}.weight"])
            np.testing.assert_array_equal(part.bias, tensors[f"{prefix}.bias"])
            assert part.weight.dtype == np.float32
    np.testing.assert_array_equal(checkpoint.head().weight, tensors["lm_head.weight"])
    np.testing.assert_array_equal(
        checkpoint.embedding_rows(5, 9), tensors["transformer.word_embeddings.weight"][5:9]
    )


def test_tied_head_is_the_embedding(tmp_path):
    tensors = write_checkpoint(tmp_path / "c", SHAPE, tied=True)
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.tied
    embedding = tensors["transformer.word_embeddings.weight"]
    np.testing.assert_array_equal(checkpoint.head().weight, embedding)


def test_config_decides_about_tying(directory):
    edit_config(directory, tie_word_embeddings=True)
    assert Checkpoint(directory).tied
    edit_config(directory, tie_word_embeddings=False)
    edit_tensors(directory, lambda tensors: tensors.pop("lm_head.weight"))
    assert "lacks the tensor lm_head.weight" in refusal(directory)


def test_missing_pieces(directory, tmp_path):
    assert "not a directory" in refusal(tmp_path / "absent")
    (directory / "ice_text.model").rename(tmp_path / "kept")
    assert "ice_text.model does not exist" in refusal(directory)
    (tmp_path / "kept").rename(directory / "ice_text.model")
    (directory / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(directory)
    (directory / "config.json").unlink()
    assert "config.json does not exist" in refusal(directory)


@pytest.mark.parametrize("name", ["config.json", "ice_text.model", "model.safetensors"])
def test_empty_files(directory, name):
    (directory / name).write_bytes(b"")
    assert f"{name} is empty" in refusal(directory)


@pytest.mark.parametrize("keep", [4, 100, -1, -1000])
def test_truncated_weights(directory, keep):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors is damaged" in refusal(directory)


def test_missing_tensors_are_named(directory):
    name = "transformer.layers.1.mlp.dense_4h_to_h.bias"
    edit_tensors(directory, lambda tensors: tensors.pop(name))
    assert f"lacks the tensor {name};" in refusal(directory)
    edit_tensors(directory, lambda tensors: tensors.pop("lm_head.weight"))
    edit_config(directory, tie_word_embeddings=False, num_layers=3)
    assert "and 13 more" in refusal(directory)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "transformer.word_embeddings.weight",
        "transformer.layers.1.attention.dense.weight",
        "transformer.layers.0.input_layernorm.bias",
        "lm_head.weight",
    ],
)
def test_values_that_are_no_numbers(directory, name, value):
    def spoil(tensors):
        tensors[name].reshape(-1)[7] = value

    edit_tensors(directory, spoil)
    assert f"NaN or infinite values in {name}" in refusal(directory)


def test_wrong_shape(directory):
    def turn(tensors):
        name = "transformer.layers.0.mlp.dense_h_to_4h.weight"
        tensors[name] = np.ascontiguousarray(tensors[name].T)

    edit_tensors(directory, turn)
    assert "of shape [32, 128]; config.json implies [128, 32]" in refusal(directory)


def test_int8_needs_its_bits_and_scales(tmp_path):
    write_checkpoint(tmp_path / "c", SHAPE, quantised_bits=8)
    edit_config(tmp_path / "c", quantization_bit=0)
    assert "names no quantization_bit" in refusal(tmp_path / "c")
    edit_config(tmp_path / "c", quantization_bit=4)
    assert "config.json implies [96, 16]" in refusal(tmp_path / "c")
    edit_config(tmp_path / "c", quantization_bit=8)
    name = "transformer.layers.1.mlp.dense_4h_to_h.weight_scale"
    edit_tensors(tmp_path / "c", lambda tensors: tensors.pop(name))
    assert f"lacks the tensor {name};" in refusal(tmp_path / "c")


def test_quantised_embeddings_are_unpacked(tmp_path):
    """As in the int4-qe release, which packs embedding and lm_head too."""
    rng = np.random.default_rng(0)
    stored, scale, expected = quantise(rng.standard_normal((64, 32)).astype(np.float32), 4)
    write_checkpoint(tmp_path / "c", SHAPE, quantised_bits=4)

    def pack(tensors):
        for name in ("transformer.word_embeddings.weight", "lm_head.weight"):
            tensors[name], tensors[f"{name}_scale"] = stored, scale

    edit_tensors(tmp_path / "c", pack)
    checkpoint = Checkpoint(tmp_path / "c")
    np.testing.assert_array_equal(checkpoint.embedding_rows(7, 20), expected[7:20])
    np.testing.assert_array_equal(checkpoint.head().weight, expected)


def test_tokenizer_of_another_model(directory):
    (directory / "ice_text.model").write_bytes(b"not a model")
    assert "no SentencePiece model" in refusal(directory)
    write_checkpoint(directory, Shape(hidden=32, heads=2, blocks=2, vocab=20))
    assert "pieces for a vocabulary of 20" in refusal(directory)


def test_wrong_type(directory):
    def to_integers(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int32)

    edit_tensors(directory, to_integers)
    assert "stores lm_head.weight as int32" in refusal(directory)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"model_type": "absent"}, "model_type None"),
        ({"multi_query_attention": True}, "ChatGLM2 or later"),
        ({"position_encoding_2d": False}, "position_encoding_2d"),
        ({"pre_seq_len": 128}, "P-tuning"),
        ({"num_attention_heads": 3}, "the width of a head"),
        ({"num_attention_heads": 16}, "the width of a head"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_layers": 10**9}, "num_layers"),
        ({"num_layers": "2"}, "num_layers"),
        ({"hidden_size": "absent"}, "hidden_size: Field required"),
        ({"layernorm_epsilon": 0}, "layernorm_epsilon"),
        ({"eos_token_id": 64}, "eos_token_id 64, outside the 0 to 63 that text may use"),
        ({"gmask_token_id": "absent"}, "gmask_token_id"),
    ],
)
def test_configurations_that_cannot_be_exported(directory, changes, said):
    edit_config(directory, **changes)
    assert said in refusal(directory)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff"])
def test_damaged_configuration(directory, content):
    (directory / "config.json").write_bytes(content)
    refusal(directory)


@pytest.fixture
def sharded(tmp_path):
    path = tmp_path / "sharded"
    write_checkpoint(path, SHAPE, shards=2)
    return path


def edit_index(directory, change):
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "target",
    ["../sharded/model-00001-of-00002.safetensors", "/etc/passwd", "..", "a\\b", "C:x", "a/b"],
)
def test_index_that_leaves_the_directory(sharded, target):
    edit_index(sharded, lambda index: index["weight_map"].update({"lm_head.weight": target}))
    assert "not a plain file name" in refusal(sharded)


def test_index_without_use(sharded):
    edit_index(sharded, lambda index: index.update(weight_map={}))
    assert "no usable weight_map" in refusal(sharded)
    edit_index(sharded, lambda index: index.update(weight_map={"lm_head.weight": 1}))
    assert "no usable weight_map" in refusal(sharded)


def test_index_that_promises_what_is_not_there(sharded):
    first = "model-00001-of-00002.safetensors"
    edit_index(sharded, lambda index: index["weight_map"].update(extra=first))
    assert f"{first} lacks extra" in refusal(sharded)
    edit_index(sharded, lambda index: index["weight_map"].update(extra="third.safetensors"))
    assert "third.safetensors does not exist" in refusal(sharded)


def test_a_link_out_of_the_checkpoint_is_refused(directory, tmp_path):
    path = directory / "model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "outside the checkpoint" in refusal(directory)


def test_the_links_of_a_hugging_face_cache_are_followed(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    tensors = write_checkpoint(snapshot, SHAPE)
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(blobs / f"hash-of-{file.name}")
        file.symlink_to(f"../../blobs/hash-of-{file.name}")
    np.testing.assert_array_equal(Checkpoint(snapshot).head().weight, tensors["lm_head.weight"])


FIRST_RELEASE = Shape(hidden=8, heads=1, blocks=1, vocab=150528)


def test_first_release_loses_its_image_tokens(tmp_path):
    """150528 ids and no mask ids in config.json: 20000 rows fewer, and the published ids."""
    config = {"mask_token_id": None, "gmask_token_id": None, "pad_token_id": 20003}
    tensors = write_checkpoint(tmp_path / "c", FIRST_RELEASE, config=config)
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.vocab_size == 130528
    assert (checkpoint.config.mask_token_id, checkpoint.config.gmask_token_id) == (150000, 150001)
    np.testing.assert_array_equal(
        checkpoint.embedding_rows(3, 130528),
        tensors["transformer.word_embeddings.weight"][20003:],
    )
    np.testing.assert_array_equal(checkpoint.head().weight, tensors["lm_head.weight"][20000:])


def test_special_tokens_among_images_are_refused(tmp_path):
    write_checkpoint(tmp_path / "c", FIRST_RELEASE)
    assert "pad_token_id 3, outside the 20000 to 150527" in refusal(tmp_path / "c")


def test_expected_shapes_count_the_published_parameters():
    """One block of ChatGLM-6B has 201,379,840 parameters."""
    sizes = {"num_layers": 28, "hidden_size": 4096, "inner_hidden_size": 16384}
    config = SimpleNamespace(**sizes, vocab_size=130528)
    block = [
        int(np.prod(shape))
        for name, shape in expected_shapes(config).items()
        if name.startswith("transformer.layers.3.")
    ]
    assert sum(block) == 201_379_840


@given(
    hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_bfloat16_rounds_to_nearest_even(values):
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(bfloat16_bits(values), expected)
