"""Several maps as one sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Join(nn.Module):
    """Maps, codes [(B, *grid, C)] and masks [(B, *grid, 1)] of each scale -> the sequences (B, N, C) of each."""

    level: nn.Parameter | None

    def __init__(self, count: int, channels: int, level_embedding: bool):
        super().__init__()
        self.level = nn.Parameter(torch.randn(count, channels)) if level_embedding else None

    def forward(
        self, x: list[Tensor], position: list[Tensor] | None = None, mask: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        made = {"tokens": _joined(x)}
        if position is not None or self.level is not None:
            made["position"] = _joined(self._coded(x, position))
        return made if mask is None else {**made, "mask": _joined(mask)}

    def _coded(self, x: list[Tensor], position: list[Tensor] | None) -> list[Tensor]:
        codes = [torch.zeros_like(m) for m in x] if position is None else position
        return codes if self.level is None else [c + v for c, v in zip(codes, self.level, strict=True)]


def _joined(maps: list[Tensor]) -> Tensor:
    return torch.cat([m.flatten(1, -2) for m in maps], 1)
