"""What differs between two bundles, from their manifests alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.bundle import BundleFile
from runtime.manifest import Manifest, Variant

Verdict = Literal[
    "identical", "same weights", "different", "only in the first", "only in the second"
]
_WEIGHTS_SUFFIX = ".weight"


@dataclass(frozen=True)
class Fact:
    """A fact that the bundles state differently."""

    name: str
    first: object
    second: object


@dataclass(frozen=True)
class Comparison:
    """A piece of the bundles: a part in one encoding, the embedding, or the tokenizer.

    "Same weights" means that only graph files differ, as those of two MNN versions may.
    """

    piece: str
    encoding: str
    verdict: Verdict


@dataclass(frozen=True)
class BundleDiff:
    """All facts that differ, and every piece with its verdict."""

    facts: list[Fact]
    pieces: list[Comparison]

    @property
    def same(self) -> bool:
        """Whether both hold the same pieces with the same weights, and would compute the same."""
        weighty = ("geometry", "tokens", "tokenizer")
        facts = [fact for fact in self.facts if fact.name.partition(".")[0] in weighty]
        alike = all(one.verdict in ("identical", "same weights") for one in self.pieces)
        return alike and not facts


def diff_manifests(first: Manifest, second: Manifest) -> BundleDiff:
    """Compare two bundles by what their manifests say; checksums stand for contents."""
    pieces = [
        Comparison("tokenizer", "", _verdict([first.tokenizer.file], [second.tokenizer.file])),
        Comparison("embedding", "bf16", _verdict([first.embedding.file], [second.embedding.file])),
    ]
    ours, theirs = _variants(first), _variants(second)
    for key in dict.fromkeys([*ours, *theirs]):
        if key not in theirs:
            verdict: Verdict = "only in the first"
        elif key not in ours:
            verdict = "only in the second"
        else:
            verdict = _verdict(ours[key].files, theirs[key].files)
        pieces.append(Comparison(*key, verdict))
    return BundleDiff(_facts(first, second), pieces)


def encoding_name(variant: Variant) -> str:
    """``mnn fp16``, ``mnn int4 block 128``."""
    block = f" block {variant.weight_block}" if variant.weight_block else ""
    return f"{variant.engine} {variant.precision}{block}"


def _variants(manifest: Manifest) -> dict[tuple[str, str], Variant]:
    return {
        (part.name, encoding_name(variant)): variant
        for part in manifest.parts
        for variant in part.variants
    }


def _verdict(first: list[BundleFile], second: list[BundleFile]) -> Verdict:
    if [one.sha256 for one in first] == [one.sha256 for one in second]:
        return "identical"
    weights = [
        [one.sha256 for one in files if one.path.endswith(_WEIGHTS_SUFFIX)]
        for files in (first, second)
    ]
    return "same weights" if weights[0] and weights[0] == weights[1] else "different"


def _facts(first: Manifest, second: Manifest) -> list[Fact]:
    ours, theirs = _flat(first), _flat(second)
    return [
        Fact(name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _flat(manifest: Manifest) -> dict[str, object]:
    flat: dict[str, object] = {
        "model": manifest.model,
        "source_precision": manifest.source_precision,
        "source_sha256": manifest.source_sha256,
        "stop_ids": manifest.stop_ids,
        "tokenizer.kind": manifest.tokenizer.kind,
        "tokenizer.id_offset": manifest.tokenizer.id_offset,
    }
    for group, values in (
        ("geometry", manifest.geometry.model_dump()),
        ("tokens", manifest.tokens.model_dump() if manifest.tokens else {}),
        ("made_by", manifest.made_by),
    ):
        flat |= {f"{group}.{name}": value for name, value in values.items()}
    return flat
