"""Requests whose answers must not depend on what happens to the workers meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime.bundle import Bundle, open_bundle
from runtime.engine import Engine, Stream
from runtime.sampling import Sampling
from scheduler.plan import Precision
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT

SAMPLED = Sampling(temperature=30.0, seed=5, presence_penalty=1.0)


def small_bundle(model: str, precision: Precision, folder: Path) -> Bundle:
    """The tiny GLM that ships, or a Llama of three random blocks ("llama")."""
    if (model, precision) == ("tiny", "fp32"):
        return open_bundle(TINY_BUNDLE)
    # Not above: a worker imports the main module anew, which may import this one.
    from runtime.export.exporter import export_bundle
    from runtime.export.request import ExportRequest
    from tests.support.llama_checkpoint import LLAMA, write_checkpoint

    source = TINY_CHECKPOINT
    if model == "llama":
        source = folder / "checkpoint"
        config = LLAMA | {"max_position_embeddings": 256, "num_hidden_layers": 3}
        write_checkpoint(source, config, precision="fp32")
    export_bundle(ExportRequest(source, folder / "out", (precision,)))
    return open_bundle(folder / "out")


@dataclass
class Answers:
    """Greedy and sampled requests in turn; `expected` are their undisturbed answers."""

    engine: Engine
    prompts: list[list[int]]
    new_tokens: int
    expected: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, engine: Engine, bundle: Bundle, lengths: tuple[int, ...], tokens: int) -> Answers:
        """Prompts of these lengths, and what they are answered when nothing happens."""
        special = bundle.manifest.tokens
        end = (special.gmask, special.bos) if special else ()
        prompts = [
            [*(5 + 3 * number + index % 50 for index in range(length)), *end]
            for number, length in enumerate(lengths)
        ]
        answers = cls(engine, prompts, tokens)
        answers.expected = [list(stream) for stream in answers.ask()]
        return answers

    def ask(self) -> list[Stream]:
        """Submit all of them to an engine that keeps nothing of earlier ones."""
        self.engine.forget()
        return [self.submit(number) for number in range(len(self.prompts))]

    def submit(self, number: int) -> Stream:
        """Submit one of them."""
        sampling = SAMPLED if number % 2 else Sampling()
        return self.engine.submit(self.prompts[number], sampling, self.new_tokens, ignore_end=True)

    def check(self, streams: list[Stream]) -> None:
        """Read all of them; nothing is missing, and nothing came twice."""
        for stream, whole in zip(streams, self.expected, strict=True):
            rest = list(stream)
            assert rest == whole[len(whole) - len(rest) :]
            assert stream.generation.token_ids == whole
            assert len(stream.generation.token_seconds) == len(whole)
            assert stream.finish_reason == "length"
