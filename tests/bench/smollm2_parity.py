"""SmolLM2's greedy answers through a bundle against transformers' on the same GGUF file.

`python -m tests.bench.smollm2_parity BUNDLE MODEL.gguf` asks 20 questions, 48 new tokens each, at
fp32 and at several splits over two stages. It needs PyTorch and transformers.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from runtime.bundle import Bundle, open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.cli.session import open_session
from runtime.engine import Generation
from runtime.sampling import Sampling
from scheduler.planner import make_plan
from scheduler.request import PlanRequest

NEW_TOKENS = 48
QUESTIONS = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "What is 12 + 7?",
    "Translate 'good morning' into French.",
    "Who wrote Romeo and Juliet?",
    "Explain photosynthesis in one sentence.",
    "Give me a recipe for pancakes.",
    "List the planets of the solar system.",
    "What does a compiler do?",
    "Write a Python function that reverses a string.",
    "What is the opposite of hot?",
    "Tell me a short story about a fox.",
    "How many days has a leap year?",
    "What is the largest ocean?",
    "Define the word 'serendipity'.",
    "日本の首都はどこですか？",
    "Complete this sentence: To be or not to be,",
    "Which weighs more: a kilogram of iron or a kilogram of feathers? \U0001f914",
)


def reference_answers(
    gguf: Path, questions: tuple[str, ...], new_tokens: int
) -> list[tuple[list[int], list[int]]]:
    """Prompt ids by transformers' chat template, and its greedy tokens, of each question."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    answers = []
    for question in questions:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=new_tokens, do_sample=False)
        answers.append((ids[0].tolist(), out[0, ids.shape[1] :].tolist()))
    return answers


def answers_of_bundle(
    bundle: Bundle, gpu_blocks: int, prompts: list[list[int]], new_tokens: int
) -> list[list[int]]:
    """Greedy tokens of every prompt, with the token that ended the answer."""
    spec = spec_of_bundle(bundle)
    plan = make_plan(
        PlanRequest(
            spec,
            vram_bytes=(1 << 33,),
            gpu_blocks=gpu_blocks,
            gpu_precision="fp32",
            cpu_precision="fp32",
            context=512,
        )
    )
    with open_session(plan, spec, bundle) as session:
        return [
            list(session.engine.generate(prompt, Sampling(), new_tokens, Generation()))
            for prompt in prompts
        ]


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("gguf", metavar="MODEL.gguf", type=click.Path(path_type=Path))
@click.option("--split", "splits", multiple=True, default=(0, 1, 12, 29), show_default=True)
def main(bundle_path: Path, gguf: Path, splits: tuple[int, ...]) -> None:
    """Compare and print a line per split; exit code 1 where anything differs."""
    bundle = open_bundle(bundle_path)
    started = time.perf_counter()
    expected = reference_answers(gguf, QUESTIONS, NEW_TOKENS)
    click.echo(f"transformers: {len(expected)} answers in {time.perf_counter() - started:.0f} s")
    ends = bundle.manifest.end_ids
    wanted = [[token for token in answer if token not in ends] for _, answer in expected]
    equal = True
    for split in splits:
        started = time.perf_counter()
        answers = answers_of_bundle(bundle, split, [prompt for prompt, _ in expected], NEW_TOKENS)
        same = sum(ours == theirs for ours, theirs in zip(answers, wanted, strict=True))
        tokens = sum(map(len, answers))
        equal &= same == len(QUESTIONS)
        click.echo(
            f"{split} + {bundle.manifest.geometry.blocks - split} blocks: {same} of"
            f" {len(QUESTIONS)} answers equal, {tokens} tokens,"
            f" {time.perf_counter() - started:.0f} s"
        )
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
