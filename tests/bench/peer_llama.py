"""llama.cpp as a contender: `PYTHON peer_llama.py write FILE`, then `… run FILE`.

PYTHON needs llama-cpp-python, and gguf to write the model. Architecture gptneox is the one of
llama.cpp whose block has ChatGLM's shapes: one matrix with bias for queries, keys and values, and
a plain GELU feed-forward of 4 times the width. It knows neither ChatGLM's scaled residual nor its
rotation in two halves, which cost next to nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peer_pipe import Handler, serve
from peer_shape import BLOCKS, FFN, HEADS, HIDDEN, MAX_CONTEXT, THREADS, VOCAB, prompt_ids

UBATCH = 512
SLACK = 128  # tokens that decoding may add to a context


def write(path: Path) -> None:
    """Write a GGUF file by the gguf package; every block gets the same random weights."""
    import gguf

    q4_0 = gguf.GGMLQuantizationType.Q4_0
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        # Quantized by slices: a full vocabulary in fp32 would take 2 GB several times over.
        return np.concatenate(
            [
                gguf.quants.quantize(
                    random.standard_normal((min(4096, rows - start), columns), dtype=np.float32)
                    * np.float32(columns**-0.5),
                    q4_0,
                )
                for start in range(0, rows, 4096)
            ]
        )

    writer = gguf.GGUFWriter(path, "gptneox")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(MAX_CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FFN)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_parallel_residual(False)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")
    ones, zeros = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)
    block = {
        "attn_norm.weight": ones,
        "attn_norm.bias": zeros,
        "attn_qkv.weight": matrix(3 * HIDDEN, HIDDEN),
        "attn_qkv.bias": np.zeros(3 * HIDDEN, np.float32),
        "attn_output.weight": matrix(HIDDEN, HIDDEN),
        "attn_output.bias": zeros,
        "ffn_norm.weight": ones,
        "ffn_norm.bias": zeros,
        "ffn_up.weight": matrix(FFN, HIDDEN),
        "ffn_up.bias": np.zeros(FFN, np.float32),
        "ffn_down.weight": matrix(HIDDEN, FFN),
        "ffn_down.bias": zeros,
    }
    words = matrix(VOCAB, HIDDEN)
    tensors = {"token_embd.weight": words, "output_norm.weight": ones, "output_norm.bias": zeros}
    for number in range(BLOCKS):
        tensors |= {f"blk.{number}.{name}": tensor for name, tensor in block.items()}
    for name, tensor in (tensors | {"output.weight": words}).items():
        quantized = {"raw_dtype": q4_0} if tensor.dtype == np.uint8 else {}
        writer.add_tensor(name, tensor, **quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """The model, and a llama context for each number of cached tokens and of sequences."""

    def __init__(self, path: Path, repack: bool) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._contexts: dict[tuple[int, int], Any] = {}

    def decode(self, context: int, tokens: int, sequences: int = 1) -> list[float]:
        """Seconds of each step; `context` tokens of each sequence are cached before the first."""
        key = context, sequences
        if key not in self._contexts:
            self._contexts[key] = self._open(context + SLACK, sequences)
            for sequence in range(sequences):
                self._prompt(self._contexts[key], context, sequence)
        opened, seconds = self._contexts[key], []
        ids = [7] * sequences
        for step in range(tokens):
            started = time.perf_counter()
            places = [(ids[s], context + step, s, True) for s in range(sequences)]
            self._run(opened, places)
            ids = [self._greedy(opened, s) for s in range(sequences)]
            seconds.append(time.perf_counter() - started)
        memory = self._api.llama_get_memory(opened)
        for sequence in range(sequences):
            self._api.llama_memory_seq_rm(memory, sequence, context, -1)
        return seconds

    def prefill(self, tokens: int) -> list[float]:
        """Seconds of one prompt, its first token chosen."""
        key = 0, 1
        if key not in self._contexts:
            self._contexts[key] = self._open(1024, 1)
        opened = self._contexts[key]
        self._api.llama_memory_clear(self._api.llama_get_memory(opened), True)
        started = time.perf_counter()
        self._prompt(opened, tokens, 0)
        self._greedy(opened, -1)
        return [time.perf_counter() - started]

    def _open(self, tokens: int, sequences: int) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx = -(-tokens // 256) * 256 * sequences
        params.n_batch = params.n_ubatch = UBATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = THREADS
        opened = self._api.llama_init_from_model(self._model, params)
        if not opened:
            raise SystemExit("llama.cpp cannot make a context")
        return opened

    def _prompt(self, opened: Any, tokens: int, sequence: int) -> None:
        places = [(i, n, sequence, n == tokens - 1) for n, i in enumerate(prompt_ids(tokens))]
        for start in range(0, tokens, UBATCH):
            self._run(opened, places[start : start + UBATCH])

    def _run(self, opened: Any, places: list[tuple[int, int, int, bool]]) -> None:
        batch = self._api.llama_batch_init(len(places), 0, 1)
        batch.n_tokens = len(places)
        for n, (token_id, position, sequence, logits) in enumerate(places):
            batch.token[n], batch.pos[n], batch.logits[n] = token_id, position, logits
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
        failed = self._api.llama_decode(opened, batch)
        self._api.llama_batch_free(batch)
        if failed:
            raise SystemExit(f"llama_decode returned {failed}")

    def _greedy(self, opened: Any, row: int) -> int:
        logits = self._api.llama_get_logits_ith(opened, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (VOCAB,))))


def load() -> tuple[str, dict[str, Handler]]:
    """The contender that the command line names."""
    import llama_cpp

    repack = "--no-repacking" not in sys.argv
    model = Llama(Path(sys.argv[2]), repack)
    system = llama_cpp.llama_print_system_info().decode().replace(" = 1", "").strip(" |")
    about = f"llama-cpp-python {llama_cpp.__version__}, gptneox Q4_0, fp16 cache, {system};"
    about += f" weights {'repacked at load' if repack else 'as in the file'}"
    return about, {"decode": model.decode, "batch": model.decode, "prefill": model.prefill}


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        serve(load)
