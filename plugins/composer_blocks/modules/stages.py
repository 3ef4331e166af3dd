"""Residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zeroes the branch of whole samples with probability `rate` while training, and scales the others up."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep if keep else mask)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class LayerDrop(nn.Module):
    """x instead of y, what a layer made of it, with probability `rate` while training; one throw for a whole batch."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return y
        return torch.where(y.new_empty(()).bernoulli_(self.rate).bool(), x, y)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
