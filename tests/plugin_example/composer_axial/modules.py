"""Ordinary PyTorch modules, which know nothing of Composer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Along(nn.Module):
    """Multi-head attention along one axis of (B, *grid, C); the other axes are a batch."""

    def __init__(self, dim: int, heads: int, axis: int):
        super().__init__()
        self.heads, self.axis = heads, axis
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(self.axis, -2)
        q, k, v = (self.split(part(rows)) for part in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)
        return self.project(y).movedim(-2, self.axis)

    def split(self, x: Tensor) -> Tensor:
        """(…, n, C) -> (…, heads, n, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class AxialAttention(nn.Module):
    """Along each axis of (B, *grid, C), one after the other."""

    def __init__(self, dim: int, heads: int, rank: int):
        super().__init__()
        self.axes = nn.Sequential(*(Along(dim, heads, axis + 1) for axis in range(rank)))

    def forward(self, x: Tensor) -> Tensor:
        return self.axes(x)


class GatedFusion(nn.Module):
    """z·x + (1 - z)·skip for maps (B, C, *grid)."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        both = torch.cat([x, skip], dim=1).movedim(1, -1)
        return skip + self.gate(both).movedim(-1, 1).sigmoid() * (x - skip)
