"""Training: generated questions in, a model that answers them out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from runtime.prompt import build_prompt, chatglm_ids
from runtime.tokenizer import Tokenizer
from training.item import Item
from training.model import TinyGlm
from training.questions import training_item

ROWS = 64
POOL_BATCHES = 16  # sorted by length together, so that a batch pads little
PEAK_RATE = 2e-3
WARMUP_STEPS = 300
STEPS_PER_REPORT = 100
STEPS_PER_SAVE = 500


@dataclass(frozen=True)
class Batch:
    """Padded on the right: ids [rows, tokens], the index of <sop> [rows], lengths [rows]."""

    ids: Tensor
    context_ends: Tensor
    lengths: Tensor


def encode(tokenizer: Tokenizer, item: Item) -> tuple[list[int], int]:
    """Ids of prompt, answer and <eop>, and the index of <sop>."""
    prompt = chatglm_ids(tokenizer, build_prompt(item.history, item.question))
    answer = tokenizer.encode(item.answer)
    return [*prompt, *answer, tokenizer.special.eos], len(prompt) - 1


def batches(tokenizer: Tokenizer, rng: random.Random, rows: int = ROWS) -> Iterator[Batch]:
    """Endless batches of items that training may show."""
    while True:
        pool = [encode(tokenizer, training_item(rng)) for _ in range(rows * POOL_BATCHES)]
        pool.sort(key=lambda row: len(row[0]))
        groups = [pool[start : start + rows] for start in range(0, len(pool), rows)]
        rng.shuffle(groups)
        for group in groups:
            lengths = [len(ids) for ids, _ in group]
            longest = max(lengths)
            padded = [ids + [tokenizer.special.pad] * (longest - len(ids)) for ids, _ in group]
            ends = [end for _, end in group]
            yield Batch(torch.tensor(padded), torch.tensor(ends), torch.tensor(lengths))


def answer_loss(model: TinyGlm, batch: Batch) -> Tensor:
    """Mean cross entropy over the answers' tokens and <eop>; prompts are given, not predicted."""
    hidden = model.hidden_states(batch.ids, batch.context_ends)
    index = torch.arange(batch.ids.shape[1])
    predicts = (index >= batch.context_ends[:, None]) & (index < batch.lengths[:, None] - 1)
    rows, columns = predicts.nonzero(as_tuple=True)
    logits = model.lm_head(hidden[rows, columns])
    return functional.cross_entropy(logits.float(), batch.ids[rows, columns + 1])


def train(
    model: TinyGlm,
    tokenizer: Tokenizer,
    steps: int,
    seed: int,
    save: Callable[[], None],
    rows: int = ROWS,
) -> list[float]:
    """Train in place with bf16 products and fp32 weights; return the loss of every step.

    `save` is called now and then, so that an interrupted run leaves something behind.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=PEAK_RATE,
        total_steps=steps,
        pct_start=min(0.3, WARMUP_STEPS / steps),
        cycle_momentum=False,
        final_div_factor=100,
    )
    losses: list[float] = []
    stream = batches(tokenizer, random.Random(seed), rows)
    wall, cpu = time.monotonic(), time.process_time()
    for step in range(1, steps + 1):
        batch = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % STEPS_PER_REPORT == 0 or step == steps:
            recent = losses[-STEPS_PER_REPORT:]
            print(
                f"step {step}/{steps}  loss {sum(recent) / len(recent):.4f}"
                f"  wall {time.monotonic() - wall:.0f} s  CPU {time.process_time() - cpu:.0f} s",
                flush=True,
            )
        if step % STEPS_PER_SAVE == 0:
            save()
    return losses
