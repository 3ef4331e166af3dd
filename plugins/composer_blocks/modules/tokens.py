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


class Best(nn.Module):
    """x (B, N, C), score (B, N, K) -> the `count` tokens with the highest first score, best first: (B, count, C)."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor, score: Tensor) -> Tensor:
        best = score[..., 0].topk(self.count, dim=1).indices
        return x.gather(1, best[..., None].expand(-1, -1, x.shape[-1]))

    def extra_repr(self) -> str:
        return f"count={self.count}"


class ChannelPart(nn.Module):
    """One of several equal parts of the channels: (…, C) -> (…, C / parts)."""

    def __init__(self, start: int, width: int):
        super().__init__()
        self.start, self.width = start, width

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(-1, self.start, self.width)

    def extra_repr(self) -> str:
        return f"start={self.start}, width={self.width}"


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
