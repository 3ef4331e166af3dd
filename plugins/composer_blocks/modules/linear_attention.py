"""Linear attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class AttendLinear(nn.Module):
    """q (B, N, C), k, v (B, M, C), mask (B, M, 1) true where a key may be seen -> (B, N, C).

    With `need_weights` also {"weights": (B, heads, N, M)}, which otherwise are never made; where it is the numbers (R,)
    of some queries, those of these.
    """

    def __init__(self, heads: int, eps: float):
        super().__init__()
        self.heads, self.eps = heads, eps

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, need_weights: bool | Tensor = False
    ) -> Any:
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        if mask is not None:
            k = k * mask
        q, k, v = (torch.unflatten(t, -1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        total = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True) + self.eps
        if need_weights is True:
            a = q @ k.transpose(-1, -2) / total
            return (a @ v).transpose(1, 2).flatten(2), {"weights": a}
        y = (q @ (k.transpose(-1, -2) @ v) / total).transpose(1, 2).flatten(2)
        if need_weights is False:
            return y
        return y, {"weights": q[:, :, need_weights] @ k.transpose(-1, -2) / total[:, :, need_weights]}

    def extra_repr(self) -> str:
        return f"heads={self.heads}"
