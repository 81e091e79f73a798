"""Make the tiny GLM again: `python -m training.train_tiny_glm --out profiles/models/tiny-glm`.

Writes a Hugging Face ChatGLM checkpoint (config.json, model.safetensors in fp16, ice_text.model).
Seeded; on 2 CPU cores it stays under an hour.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from runtime.prompt import build_prompt, chatglm_ids
from runtime.tokenizer import Tokenizer
from training.evaluate import accuracy
from training.model import TinyConfig, TinyGlm
from training.questions import Item, test_items, training_item
from training.tokenizer_training import VOCABULARY, train_tokenizer

BATCH_ROWS = 64
POOL_BATCHES = 8  # sorted by length together, so that a batch pads little
PEAK_RATE = 2e-3
WARMUP_STEPS = 200


def encode(tokenizer: Tokenizer, item: Item) -> tuple[list[int], int]:
    """Ids of prompt, answer and <eop>, and the index of <sop>."""
    prompt = chatglm_ids(tokenizer, build_prompt(item.history, item.question))
    answer = tokenizer.encode(item.answer)
    return [*prompt, *answer, tokenizer.special.eos], len(prompt) - 1


def batches(tokenizer: Tokenizer, rng: random.Random, rows: int):  # noqa: ANN201
    """Endless (ids [rows, tokens], context_ends [rows], lengths [rows]), padded on the right."""
    while True:
        pool = [encode(tokenizer, training_item(rng)) for _ in range(rows * POOL_BATCHES)]
        pool.sort(key=lambda row: len(row[0]))
        groups = [pool[start : start + rows] for start in range(0, len(pool), rows)]
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            padded = [ids + [tokenizer.special.pad] * (longest - len(ids)) for ids, _ in group]
            ends = [end for _, end in group]
            yield torch.tensor(padded), torch.tensor(ends), torch.tensor([len(i) for i, _ in group])


def answer_loss(model: TinyGlm, ids: torch.Tensor, ends: torch.Tensor, lengths: torch.Tensor):  # noqa: ANN201
    """Mean cross entropy over the answers' tokens and <eop>."""
    hidden = model.hidden_states(ids, ends)
    index = torch.arange(ids.shape[1])
    predicts = (index >= ends[:, None]) & (index < lengths[:, None] - 1)
    rows, columns = predicts.nonzero(as_tuple=True)
    logits = model.lm_head(hidden[rows, columns])
    return functional.cross_entropy(logits.float(), ids[rows, columns + 1])


def train(
    model: TinyGlm, tokenizer: Tokenizer, steps: int, seed: int, rows: int, out: Path
) -> list[float]:
    """Train in place, saving to `out` on the way; return the loss of every step."""
    decayed = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=PEAK_RATE,
        total_steps=steps,
        pct_start=min(0.3, WARMUP_STEPS / steps),
        final_div_factor=100,
    )
    losses = []
    started = time.monotonic()
    stream = batches(tokenizer, random.Random(seed), rows)
    for step in range(steps):
        ids, ends, lengths = next(stream)
        loss = answer_loss(model, ids, ends, lengths)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            recent = sum(losses[-100:]) / 100
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps} loss {recent:.4f} {seconds:.0f} s", flush=True)
        if step % 500 == 499:
            write_checkpoint(model, tokenizer, out)
            right = accuracy(model, tokenizer, test_items()[::4])
            print(f"  quarter of the test list: {right:.3f}", flush=True)
    return losses


def write_checkpoint(model: TinyGlm, tokenizer: Tokenizer, out: Path) -> None:
    """Write config.json and model.safetensors (fp16) into `out`."""
    config, special = model.config, tokenizer.special
    document = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "torch_dtype": "float16",
        "num_layers": config.blocks,
        "hidden_size": config.hidden_size,
        "inner_hidden_size": config.ffn_size,
        "num_attention_heads": config.heads,
        "layernorm_epsilon": config.epsilon,
        "max_sequence_length": config.max_sequence_length,
        "vocab_size": config.vocab_size,
        "position_encoding_2d": True,
        "tie_word_embeddings": False,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "mask_token_id": special.mask,
        "gmask_token_id": special.gmask,
        "pad_token_id": special.pad,
        "quantization_bit": 0,
        "pre_seq_len": None,
        "use_cache": True,
    }
    (out / "config.json").write_text(json.dumps(document, indent=2) + "\n")
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})


def main() -> None:
    """Train the tokenizer and the model, write both, and print the accuracy on the test list."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--test-list", type=Path, help="also write the test list here (JSON lines)")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=6)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    items = test_items()
    if arguments.test_list is not None:
        lines = [json.dumps(item.json(), ensure_ascii=False) + "\n" for item in items]
        arguments.test_list.write_text("".join(lines), encoding="utf-8")
    tokenizer = train_tokenizer(arguments.out / "ice_text.model", arguments.seed)
    model = TinyGlm(TinyConfig(VOCABULARY))
    train(model, tokenizer, arguments.steps, arguments.seed, BATCH_ROWS, arguments.out)
    write_checkpoint(model, tokenizer, arguments.out)
    model.half().float()  # what was written is what gets tested
    print(f"exact answers on the test list: {accuracy(model, tokenizer, items):.4f}")


if __name__ == "__main__":
    main()
