"""ChatGLM-6B's architecture in PyTorch, small; written from its published definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# The published code scales residuals by sqrt(2 x 28) whatever number of layers config.json names.
RESIDUAL_SCALE = math.sqrt(2 * 28)
ROTARY_BASE = 10000.0


@dataclass(frozen=True)
class TinyConfig:
    """Geometry of the model; `vocab_size` follows from its tokenizer."""

    vocab_size: int
    hidden_size: int = 128
    heads: int = 4
    blocks: int = 8
    ffn_size: int = 512
    epsilon: float = 1e-5
    max_sequence_length: int = 2048


class Attention(nn.Module):
    """Self-attention with two-dimensional rotary positions and a projection fused per head."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, visible: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        rows, tokens, hidden = x.shape
        fused = self.query_key_value(x).view(rows, tokens, self.heads, -1)
        query, key, value = fused.chunk(3, dim=-1)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5) + visible
        mixed = scores.softmax(-1) @ value
        return self.dense(mixed.transpose(1, 2).reshape(rows, tokens, hidden))


class Mlp(nn.Module):
    """Two matrices with GELU (tanh form) between."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.ffn_size)
        self.dense_4h_to_h = nn.Linear(config.ffn_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))


class Block(nn.Module):
    """One layer; both residuals come from the normalised input, scaled."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.epsilon)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.epsilon)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, visible: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        normed = self.input_layernorm(x)
        x = normed * RESIDUAL_SCALE + self.attention(normed, visible, rotary)
        normed = self.post_attention_layernorm(x)
        return normed * RESIDUAL_SCALE + self.mlp(normed)


class Transformer(nn.Module):
    """Embedding, blocks and final norm, under the names of the published checkpoints."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.epsilon)


class TinyGlm(nn.Module):
    """The whole model. `state_dict` has exactly the tensor names of a ChatGLM checkpoint."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Against residuals scaled by 7.5, branches must start strong to be heard.
                gain = 3.0 if "dense.weight" in name or "dense_4h" in name else 1.0
                nn.init.normal_(parameter, std=gain / math.sqrt(parameter.shape[1]))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden_states(self, ids: Tensor, context_ends: Tensor) -> Tensor:
        """Final hidden states [rows, tokens, hidden] of ids [rows, tokens].

        `context_ends` [rows] is the index of <sop>; [gMASK] stands right before it. Padding on the
        right needs no mask: nobody that counts can see it.
        """
        index = torch.arange(ids.shape[1])
        ends = context_ends[:, None]
        generated = index >= ends
        position = torch.where(generated, ends - 1, index)
        block_position = torch.where(generated, index - ends + 1, 0)
        rotary = rotary_tables(torch.stack([position, block_position], 1), self.head_dim)
        causal = index[None, :] <= index[:, None]
        visible = (causal[None] | ~generated[:, None, :])[:, None]
        visible = torch.zeros(visible.shape).masked_fill_(~visible, -10000.0)
        x = self.transformer.word_embeddings(ids)
        for layer in self.transformer.layers:
            x = layer(x, visible, rotary)
        return self.transformer.final_layernorm(x)

    @property
    def head_dim(self) -> int:
        return self.config.hidden_size // self.config.heads


def rotary_tables(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, tokens, 1, 2, head_dim / 2] for positions [rows, 2, tokens]."""
    half = head_dim // 2
    frequency = ROTARY_BASE ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    angle = positions.transpose(1, 2)[:, :, None, :, None].float() * frequency
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate both halves of every head of x [rows, tokens, heads, head_dim] by their positions."""
    halves = x.unflatten(-1, (2, -1))
    first, second = halves.chunk(2, dim=-1)
    return (halves * cos + torch.cat([-second, first], -1) * sin).flatten(-2)
