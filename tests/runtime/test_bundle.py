"""Opening bundles: complete ones open, everything else is refused in one sentence."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.bundle import open_bundle, read_manifest, select_variant, served_precisions
from runtime.manifest import Manifest
from runtime.rotary import Rotary
from scheduler.errors import BundleError
from tests.support.bundles import add_file, write_bundle, write_manifest
from tests.support.tiny import TINY_BUNDLE


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "bundle"
    write_bundle(path)
    return path


def refusal(path, **options):
    with pytest.raises(BundleError) as caught:
        open_bundle(path, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_complete_bundle_opens_and_verifies(bundle):
    opened = open_bundle(bundle, verify=True)
    assert opened.manifest.geometry.blocks == 2
    assert [part.name for part in opened.manifest.parts] == ["block_0", "block_1", "lm_head"]
    assert all(opened.file(file).is_file() for file in opened.manifest.files())


def test_document_survives_its_own_json(bundle):
    manifest = read_manifest(bundle)
    again = json.loads(manifest.model_dump_json(by_alias=True))
    assert Manifest.model_validate(again) == manifest
    written = json.loads((bundle / "manifest.json").read_text())
    assert again["geometry"].items() >= written["geometry"].items()
    assert (again["tokens"], again["parts"]) == (written["tokens"], written["parts"])


def test_a_manifest_written_before_there_were_other_families_means_chatglm(bundle):
    manifest = read_manifest(bundle)
    assert manifest.geometry.turning == Rotary("two_halves", 16)
    assert (manifest.geometry.mask, manifest.geometry.norm) == ("prefix", "layer")
    assert (manifest.tokenizer.kind, manifest.end_ids) == ("sentencepiece", {95})


def test_not_a_bundle(tmp_path):
    assert "not a directory" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in refusal(tmp_path / "empty")


def test_missing_and_truncated_files(bundle):
    target = bundle / "mnn-fp16-None" / "block_1.mnn"
    whole = target.read_bytes()
    target.write_bytes(whole[:-1])
    assert "block_1.mnn has" in refusal(bundle)
    target.unlink()
    assert "block_1.mnn is missing" in refusal(bundle)
    target.mkdir()
    assert "block_1.mnn is missing" in refusal(bundle)


def test_changed_byte_is_found_by_verify_alone(bundle):
    target = bundle / "mnn-fp16-None" / "block_1.mnn"
    content = bytearray(target.read_bytes())
    content[0] ^= 1
    target.write_bytes(content)
    open_bundle(bundle)
    assert "block_1.mnn does not match its checksum" in refusal(bundle, verify=True)


@pytest.mark.parametrize(
    "path",
    ["../outside", "/etc/passwd", "a/../../outside", "..\\outside", "C:outside", "a\nb", "a\x00b"],
)
def test_paths_outside_are_refused(bundle, path):
    (bundle.parent / "outside").write_bytes(b"t")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["tokenizer"]["file"]["path"] = path
    write_manifest(bundle, manifest)
    assert "outside the bundle" in refusal(bundle)


def test_link_out_of_the_bundle_is_refused(bundle):
    target = bundle / "tokenizer" / "ice_text.model"
    outside = bundle.parent / "outside"
    outside.write_bytes(target.read_bytes())
    target.unlink()
    target.symlink_to(outside)
    assert "outside the bundle" in refusal(bundle)


def test_linked_directory_out_of_the_bundle_is_refused(bundle):
    folder = bundle / "tokenizer"
    folder.rename(bundle.parent / "moved")
    folder.symlink_to(bundle.parent / "moved")
    assert "outside the bundle" in refusal(bundle)


def test_a_bundle_reached_by_a_link_opens(bundle):
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    open_bundle(link, verify=True)


def test_duplicate_keys_are_refused(bundle):
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model":', '"model": "other", "model":', 1))
    assert "repeats the key 'model'" in refusal(bundle)


def test_other_schema_is_named(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    write_manifest(bundle, manifest | {"schema": "glm-plan/bundle/2"})
    assert "'glm-plan/bundle/2'" in refusal(bundle)
    write_manifest(bundle, manifest | {"schema": 70_000 * "x"})
    assert len(refusal(bundle)) < 1000


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("geometry", "hidden_size"), 0),
        (("geometry", "hidden_size"), 10**30),
        (("geometry", "hidden_size"), 65),
        (("geometry", "heads"), 3),
        (("geometry", "kv_heads"), 2),
        (("geometry", "blocks"), 3),
        (("geometry", "blocks"), -1),
        (("geometry", "layernorm_epsilon"), 0),
        (("geometry", "family"), "unheard"),
        (("geometry", "mask"), "causal"),
        (("geometry", "rotary"), {"pairing": "halves", "dim": 8}),
        (("geometry", "rotary"), {"pairing": "two_halves", "dim": 7}),
        (("stop_ids",), [96]),
        (("tokens",), None),
        (("geometry", "vocab_size"), 97),
        (("tokens", "eos"), 96),
        (("tokens", "eos"), -1),
        (("parts", 0, "name"), "block_1"),
        (("parts", 0, "variants"), []),
        (("parts", 0, "variants", 0, "files"), []),
        (("parts", 0, "variants", 0, "files", 0, "size_bytes"), 0),
        (("parts", 0, "variants", 0, "files", 0, "sha256"), "abc"),
        (("parts", 0, "variants", 0, "files", 0, "sha256"), None),
        (("source_sha256",), None),
        (("parts", 0, "variants", 0, "precision"), "int3"),
        (("embedding", "file", "size_bytes"), 2),
        (("model",), ""),
        (("surprise",), 1),
    ],
)
def test_absurd_documents_are_refused(bundle, where, value):
    manifest = json.loads((bundle / "manifest.json").read_text())
    inner = manifest
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    write_manifest(bundle, manifest)
    assert "manifest.json is not usable" in refusal(bundle)


def test_variant_listed_twice_is_refused(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["parts"][0]["variants"] *= 2
    write_manifest(bundle, manifest)
    assert "same variant twice" in refusal(bundle)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema": NaN}',
        b"[" * 100_000,
        b"{" + b" " * (17 << 20),
    ],
)
def test_damaged_manifests_are_refused(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    refusal(bundle)


@given(data=st.data())
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_value_anywhere_opens_or_is_refused(bundle, data):
    """Whatever stands in place of any value of the manifest: a bundle, or one sentence."""
    original = json.loads((bundle / "manifest.json").read_text())
    manifest = copy.deepcopy(original)
    inner, step = manifest, data.draw(st.sampled_from(sorted(manifest)))
    while isinstance(inner[step], (dict, list)) and inner[step] and data.draw(st.booleans()):
        inner = inner[step]
        steps = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        step = data.draw(st.sampled_from(list(steps)))
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    inner[step] = data.draw(scalars | st.lists(scalars, max_size=2))
    try:
        write_manifest(bundle, manifest)
        try:
            open_bundle(bundle)
        except BundleError as error:
            assert "\n" not in str(error)  # noqa: PT017 (an error is one of two right answers)
    finally:
        write_manifest(bundle, original)


ENCODINGS = (("fp16", None), ("int8", None), ("int4", 128), ("int4", 32))


def test_exact_variant_wins_and_the_finest_block(tmp_path):
    write_bundle(tmp_path / "b", encodings=ENCODINGS)
    manifest = read_manifest(tmp_path / "b")
    chosen = select_variant(manifest, "block_0", "mnn", "int4")
    assert (chosen.variant.precision, chosen.variant.weight_block) == ("int4", 32)
    assert chosen.note is None
    assert select_variant(manifest, "lm_head", "mnn", "int8").variant.precision == "int8"


@pytest.mark.parametrize(
    ("source", "said"), [("fp16", "without loss"), ("bf16", "rounded to fp16 from bf16")]
)
def test_fp32_is_served_by_fp16_and_says_so(tmp_path, source, said):
    write_bundle(tmp_path / "b", encodings=ENCODINGS, source_precision=source)
    chosen = select_variant(read_manifest(tmp_path / "b"), "block_1", "mnn", "fp32")
    assert chosen.variant.precision == "fp16"
    assert chosen.requested == "fp32"
    assert said in chosen.note


def test_lm_head_is_served_by_what_is_more_exact_than_asked_for(tmp_path):
    write_bundle(tmp_path / "b", encodings=(("fp16", None), ("int8", 32)))
    manifest = read_manifest(tmp_path / "b")
    chosen = select_variant(manifest, "lm_head", "mnn", "int4")
    assert (chosen.variant.precision, chosen.requested) == ("int8", "int4")
    assert chosen.note == "lm_head at int4 is served by its int8 files, more exact."
    with pytest.raises(BundleError, match="has block_0 as mnn fp16, mnn int8, not as mnn int4"):
        select_variant(manifest, "block_0", "mnn", "int4")
    blocks, head = manifest.parts[0], manifest.parts[-1]
    assert served_precisions(blocks, "mnn") == {"fp16", "int8"}
    assert served_precisions(head, "mnn") == {"fp16", "int8", "int4"}
    assert served_precisions(head, "ort") == frozenset()


def test_what_is_absent_is_named_with_what_there_is(tmp_path):
    write_bundle(tmp_path / "b", encodings=(("int8", None), ("int4", 64)))
    manifest = read_manifest(tmp_path / "b")
    for engine, precision in (("mnn", "fp32"), ("mnn", "fp16"), ("ort", "int8")):
        with pytest.raises(BundleError, match=r"mnn int4, mnn int8.*--precision"):
            select_variant(manifest, "block_0", engine, precision)
    with pytest.raises(BundleError, match=r"no part 'block_7'"):
        select_variant(manifest, "block_7", "mnn", "int8")


def test_extra_files_do_not_matter(bundle):
    add_file(bundle, "notes.txt", b"mine")
    open_bundle(bundle, verify=True)


def test_a_manifest_is_read_without_numpy_or_mnn() -> None:
    script = (
        "import sys; from pathlib import Path; from runtime.bundle import read_manifest;"
        " from runtime.bundle_spec import spec_of_bundle;"
        " read_manifest(Path(sys.argv[1]));"
        " print([one for one in ('numpy', 'MNN') if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(TINY_BUNDLE)],
        capture_output=True,
        text=True,
        check=True,
        cwd=TINY_BUNDLE.parents[2],
    )
    assert done.stdout.strip() == "[]"
