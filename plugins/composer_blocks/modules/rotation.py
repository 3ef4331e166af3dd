"""Rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Angles(nn.Module):
    """x (B, *grid, C) -> angles (B, *grid, total): `pairs` for each axis, zeros for the rest; 32 bits at least."""

    def __init__(self, pairs: int, total: int, temperature: float):
        super().__init__()
        self.pairs, self.total, self.temperature = pairs, total, temperature

    def forward(self, x: Tensor) -> Tensor:
        grid, dtype = x.shape[1:-1], torch.promote_types(x.dtype, torch.float32)
        speed = self.temperature ** -(torch.arange(self.pairs, device=x.device, dtype=dtype) / self.pairs)
        places = torch.meshgrid(*(torch.arange(n, device=x.device, dtype=dtype) for n in grid), indexing="ij")
        angles = torch.cat([place[..., None] * speed for place in places], -1)
        angles = functional.pad(angles, [0, self.total - angles.shape[-1]])
        return angles.expand(x.shape[0], *angles.shape)

    def extra_repr(self) -> str:
        return f"pairs={self.pairs}, temperature={self.temperature}"


class OneHead(nn.Module):
    """(B, extra + N, C) -> (B, N, width), a view."""

    def __init__(self, extra: int, width: int):
        super().__init__()
        self.extra, self.width = extra, width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.extra :, : self.width]


class Turn(nn.Module):
    """x (B, extra + N, C), angles (B, N, C / heads / 2) -> x, whose pairs of channels have turned."""

    def __init__(self, heads: int, extra: int):
        super().__init__()
        self.heads, self.extra = heads, extra

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        pairs = torch.unflatten(x[:, self.extra :], -1, (self.heads, -1, 2))
        a, b = pairs.unbind(-1)
        cos, sin = angles.cos()[:, :, None].to(x.dtype), angles.sin()[:, :, None].to(x.dtype)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(2)
        return torch.cat([x[:, : self.extra], turned], 1) if self.extra else turned
