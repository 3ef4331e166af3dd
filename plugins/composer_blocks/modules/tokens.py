"""Tokens beside those of the grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Prepend(nn.Module):
    """(B, N, C) -> (B, count + N, C)."""

    def __init__(self, count: int, channels: int, std: float):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(count, channels))
        if std:
            nn.init.trunc_normal_(self.token, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class Drop(nn.Module):
    """(B, count + N, C) -> (B, N, C)."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.count :]


class Take(nn.Module):
    """(B, N, C) -> (B, C)."""

    def __init__(self, index: int):
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]


class Learned(nn.Module):
    """x (B, …) -> (B, count, channels)."""

    token: nn.Parameter | None

    def __init__(self, count: int, channels: int, std: float, zeros: bool):
        super().__init__()
        self.shape = (count, channels)
        self.token = None if zeros else nn.Parameter(torch.randn(self.shape) * std)

    def forward(self, x: Tensor) -> Tensor:
        if self.token is None:
            return x.new_zeros(x.shape[0], *self.shape)
        return self.token.expand(x.shape[0], -1, -1)
