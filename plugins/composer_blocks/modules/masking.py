"""Hidden tokens, and places for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, are spread more evenly than those of any other number."""


class Mask(nn.Module):
    """x (B, extra + N, C), noise (B, N) -> those that are left, the order (B, extra + N, 1), the mask (B, N, 1)."""

    def __init__(self, shown: int, of: int, extra: int):
        super().__init__()
        self.shown, self.of, self.extra = shown, of, extra

    def forward(self, x: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        count = x.shape[1] - self.extra
        kept = count * self.shown // self.of
        if noise is None:
            noise = self.noise(x, count)
        ranked = noise.argsort(1)
        rank = ranked.argsort(1)
        cells = x[:, self.extra :].gather(1, ranked[:, :kept, None].expand(-1, -1, x.shape[2]))
        front = torch.arange(self.extra, device=x.device).expand(x.shape[0], -1)
        order = torch.cat([front, rank + self.extra], 1)
        mask = (rank >= kept).to(x.dtype)[..., None]
        return {"x": torch.cat([x[:, : self.extra], cells], 1), "order": order[..., None], "mask": mask}

    def noise(self, x: Tensor, count: int) -> Tensor:
        """Drawn in training, else a fixed spread: (B, count)."""
        if self.training:
            return torch.rand(x.shape[0], count, device=x.device)
        spread = torch.arange(count, device=x.device, dtype=torch.float32) * GOLDEN % 1
        return spread.expand(x.shape[0], -1)

    def extra_repr(self) -> str:
        return f"shown={self.shown}/{self.of}, extra={self.extra}"


class Unmask(nn.Module):
    """x (B, n, C), order (B, N, 1) -> (B, N, C)."""

    def __init__(self, channels: int, std: float):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, channels))
        if std:
            nn.init.normal_(self.token, std=std)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        hidden = self.token.expand(x.shape[0], order.shape[1] - x.shape[1], -1)
        place = order.long().clamp(0, order.shape[1] - 1)  # any map of one channel has the type of an order
        return torch.cat([x, hidden], 1).gather(1, place.expand(-1, -1, x.shape[2]))
