"""Boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Boxes(nn.Module):
    """x (B, N, 2·rank), reference (B, N, rank or 2·rank) -> sigmoid(x + inverse sigmoid of the reference)."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        if reference is not None:
            at = inverse_sigmoid(reference, self.eps)
            x = x + functional.pad(at, (0, x.shape[-1] - at.shape[-1]))
        return x.sigmoid()

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """log(x / (1 - x)), both no smaller than eps."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
