"""Attention whose weights are not a softmax of products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from composer_blocks.modules.attention import scale_of


class Relate(nn.Module):
    """q (B, N, C), k (B, M, C), v (B, M, D) -> (B, N, D), the mean of values weighted by scores of queries and keys."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, heads: int, width: int, scale: str | float, score: str, normalize: str, dropout: float):
        super().__init__()
        self.heads, self.scale, self.score, self.normalize, self.dropout = heads, scale, score, normalize, dropout
        learned: Any = nn.Linear(width, 1) if score == "perceptron" else None
        self.register_parameter("weight", learned.weight if learned else None)
        self.register_parameter("bias", learned.bias if learned else None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (torch.unflatten(t, -1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        a = functional.dropout(self._weights(self._scores(q, k)), self.dropout, self.training)
        return (a @ v).transpose(1, 2).flatten(2)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, heads, N, M)."""
        if self.score == "product":
            return q @ k.transpose(-1, -2) * scale_of(self.scale, q.shape[-1], q.shape[-1] * self.heads)
        both = (q[:, :, :, None] + k[:, :, None]).relu()
        weight: Any = self.weight
        return both.squeeze(-1) if self.score == "sum" else functional.linear(both, weight, self.bias).squeeze(-1)

    def _weights(self, a: Tensor) -> Tensor:
        if self.normalize == "softmax":
            return a.softmax(-1)
        return a / a.shape[-1 if self.normalize == "mean" else -2]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, score={self.score}, normalize={self.normalize}"
