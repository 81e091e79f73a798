"""chatglm.cpp as a contender: `PYTHON peer_chatglm.py write FILE VOCABULARY`, then `… run FILE`.

PYTHON needs chatglm-cpp; to write the model also what its converter imports: torch, transformers,
tabulate and tqdm. VOCABULARY is a SentencePiece model such as ChatGLM-6B's ice_text.model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from peer_pipe import Handler, serve
from peer_shape import BLOCKS, FFN, HEADS, HIDDEN, MAX_CONTEXT, VOCAB, prompt_ids


class RandomWeights(Mapping[str, Any]):
    """A checkpoint's tensors by name; those of all blocks are the same."""

    def __getitem__(self, name: str) -> Any:
        part, _, kind = name.removeprefix("transformer.").rpartition(".")
        tied = part.replace("lm_head", "word_embeddings")  # or else it refuses
        return _drawn(tied.rpartition(".")[2], kind)

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("tensors are asked for by name")

    def __len__(self) -> int:
        raise NotImplementedError("tensors are asked for by name")


@cache
def _drawn(part: str, kind: str) -> Any:
    import torch

    rows, columns = {
        "query_key_value": (3 * HIDDEN, HIDDEN),
        "dense": (HIDDEN, HIDDEN),
        "dense_h_to_4h": (FFN, HIDDEN),
        "dense_4h_to_h": (HIDDEN, FFN),
        "word_embeddings": (VOCAB, HIDDEN),
    }.get(part, (HIDDEN, 1))
    if kind == "bias":
        return torch.zeros(rows)
    if columns == 1:  # a norm
        return torch.ones(rows)
    return torch.randn(rows, columns).mul_(columns**-0.5).half()


def write(path: Path, vocabulary: Path) -> None:
    """Write a GGML file of type q4_0 by chatglm.cpp's own converter."""
    from chatglm_cpp import convert

    convert.quantize_q4_0 = cache(convert.quantize_q4_0)  # else minutes, for equal blocks

    config = SimpleNamespace(
        position_encoding_2d=True,
        hidden_size=HIDDEN,
        inner_hidden_size=FFN,
        vocab_size=VOCAB,
        num_attention_heads=HEADS,
        num_layers=BLOCKS,
        layernorm_epsilon=1e-5,
        pre_seq_len=None,
        max_sequence_length=MAX_CONTEXT,
        eos_token_id=130005,
        pad_token_id=3,
        quantization_bit=0,
    )
    model = SimpleNamespace(config=config, state_dict=RandomWeights)
    proto = SimpleNamespace(serialized_model_proto=vocabulary.read_bytes)
    tokenizer = SimpleNamespace(
        sp_tokenizer=SimpleNamespace(text_tokenizer=SimpleNamespace(sp=proto))
    )
    with path.open("wb") as file:
        convert.ChatGLMConverter.convert(file, model, tokenizer, convert.GGMLType.Q4_0)


class ChatGLM:
    """The model behind chatglm.cpp's pipeline, one token or one prompt at a time."""

    def __init__(self, path: Path) -> None:
        import chatglm_cpp

        self._model = chatglm_cpp.Pipeline(str(path), max_length=MAX_CONTEXT).model
        self._greedy = chatglm_cpp._C.GenerationConfig(do_sample=False, max_length=MAX_CONTEXT)

    def decode(self, context: int, tokens: int) -> list[float]:
        """Seconds of each step after `context` cached tokens.

        What is in the cache is not asked: a long one was never filled, and reads as fast.
        """
        seconds = []
        for cached in range(context, context + tokens):
            started = time.perf_counter()
            self._next(cached + 1, cached)
            seconds.append(time.perf_counter() - started)
        return seconds

    def prefill(self, tokens: int) -> list[float]:
        """Seconds of one prompt, its first token chosen."""
        started = time.perf_counter()
        self._next(tokens, 0)
        return [time.perf_counter() - started]

    def _next(self, tokens: int, cached: int) -> int:
        ids = prompt_ids(tokens)
        return int(self._model.generate_next_token(ids, None, self._greedy, cached, 16))


def load() -> tuple[str, dict[str, Handler]]:
    """The contender that the command line names."""
    import chatglm_cpp

    model = ChatGLM(Path(sys.argv[2]))
    about = f"chatglm-cpp {chatglm_cpp.__version__}, q4_0, fp16 cache"
    return about, {"decode": model.decode, "prefill": model.prefill}


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve(load)
