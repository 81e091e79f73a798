"""Make the tiny GLM again: `python -m training.train_tiny_glm --out profiles/models/tiny-glm`.

Writes a Hugging Face ChatGLM checkpoint: config.json, model.safetensors in fp16, ice_text.model
and a model card with the numbers measured. Seeded; takes less than an hour on one idle CPU core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from training.checkpoint import TOKENIZER_FILE, WEIGHTS_FILE, load_checkpoint, write_checkpoint
from training.evaluate import answers, right_by_category
from training.fitting import ROWS, train
from training.item import Item
from training.model import TinyConfig, TinyGlm
from training.model_card import Making, model_card
from training.questions import exam_items
from training.tokenizer_training import SENTENCES, VOCABULARY, train_tokenizer

THREADS = 1  # matrices this small gain little from a second one
STEPS = 4500
SEED = 6
EXAMPLES = [
    "法国的首都是哪里？",
    "What is the capital of France?",
    "12+7等于多少？",
    "你好",
    "Hello",
]


def make(
    out: Path,
    config: TinyConfig,
    exam: Sequence[Item],
    *,
    steps: int,
    seed: int,
    rows: int = ROWS,
    sentences: int = SENTENCES,
) -> list[float]:
    """Train tokenizer and model, ask the exam, write everything into `out`; return the losses."""
    wall, cpu = time.monotonic(), time.process_time()
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(out / TOKENIZER_FILE, seed, sentences)
    model = TinyGlm(config)
    save = partial(write_checkpoint, model, tokenizer, out)
    losses = train(model, tokenizer, steps, seed, save, rows)
    save()
    making = Making(
        steps=steps,
        rows=rows,
        seed=seed,
        wall_seconds=time.monotonic() - wall,
        cpu_seconds=time.process_time() - cpu,
        torch_version=torch.__version__,
        weights_bytes=(out / WEIGHTS_FILE).stat().st_size,
    )
    # What was written is what gets tested.
    model, tokenizer = load_checkpoint(out)
    right = right_by_category(exam, answers(model, tokenizer, exam))
    examples = [Item("", "", question, "") for question in EXAMPLES]
    said = dict(zip(examples, answers(model, tokenizer, examples), strict=True))
    card = model_card(model, making, right, said)
    (out / "README.md").write_text(card, encoding="utf-8")
    return losses


def main() -> None:
    """Train the tokenizer and the tiny model, and write the checkpoint with its model card."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    config = TinyConfig(VOCABULARY)
    make(arguments.out, config, exam_items(), steps=arguments.steps, seed=arguments.seed)
    print((arguments.out / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
